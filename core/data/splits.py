"""Train, val and test, divided by group and stratified by class; saved, hashed and reused."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd

from core.data.columns import SPLITS
from core.files import atomic_write
from core.types import UserError

FINEST = 20  # a share is a whole number of at most so many folds: 5 % steps or exact small fractions


def assign_splits(
    frame: pd.DataFrame,
    fractions: Mapping[str, float],
    seed: int,
    fold: int | None = None,
    folds: int | None = None,
) -> pd.DataFrame:
    """The same table with ``split`` filled; a table that has splits is returned as it is, unless folds are asked for.

    With folds, ``test`` is fold number ``fold`` of ``StratifiedGroupKFold(folds, shuffle=True, random_state=seed)``
    over all rows in file order, and ``val`` is a share ``fractions['val']`` carved out of the rest; so pooling the
    folds predicts every row once. Without folds, shares of ``fractions`` are cut by the same splitter. A group is never
    divided. Text-only rows train.

    Args:
        frame: normalised manifest.
        fractions: share of ``val`` and ``test``; what remains trains.
        seed: of the shuffle.
        fold: number of the test fold, from 0; needs ``folds``.
        folds: number of folds.

    Raises:
        UserError: shares do not leave anything to train on, a fold is out of range, or there are too few groups.
    """
    share = {name: float(fractions.get(name, 0.0)) for name in ("val", "test")}
    unknown = sorted(set(fractions) - set(SPLITS))
    if unknown or min(share.values()) < 0 or sum(share.values()) >= 1:
        raise UserError(
            f"data.split.fractions is {dict(fractions)}; expected shares of val and test that leave some for train"
        )
    if folds is None and fold is not None:
        raise UserError(f"data.split.fold is {fold}, but data.split.folds is not given", todo="set both")
    if folds is None and frame["split"].notna().all():
        return frame
    pictures = np.flatnonzero(frame["path"].notna())
    split = np.full(len(frame), "train", dtype=object)
    rest = pictures
    if folds is not None:
        if fold is None or not 0 <= fold < folds:
            raise UserError(f"data.split.fold is {fold}; expected 0 to {folds - 1}")
        test = pictures[_folds(frame.iloc[pictures], folds, seed)[fold]]
    else:
        test = carve(frame, pictures, share["test"], seed)
    split[test] = "test"
    rest = np.setdiff1d(pictures, test)
    # of the rows that are left, so that the asked share refers to all of them
    remaining = share["val"] if folds is not None else share["val"] / (1 - share["test"])
    split[carve(frame, rest, remaining, seed + 1)] = "val"
    return frame.assign(split=pd.Series(split, frame.index, dtype=object))


def carve(frame: pd.DataFrame, rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """About ``share`` of some rows, whole groups, stratified by class; empty for a share of 0.

    Raises:
        UserError: there are not two groups to divide.
    """
    if share <= 0:
        return np.empty(0, np.int64)
    part = frame.iloc[rows]
    groups = part["group"].nunique()
    if groups < 2:
        raise UserError(
            f"{len(rows)} pictures in {groups} group cannot be divided",
            todo="give a column 'split', or a column 'group' that names independent units (patient, scene)",
        )
    wanted = Fraction(share).limit_denominator(min(FINEST, groups))
    if wanted == 0:
        wanted = Fraction(1, min(FINEST, groups))
    parts = _folds(part, wanted.denominator, seed) if wanted.denominator > 1 else [np.arange(0)]
    chosen: np.ndarray = rows[np.sort(np.concatenate(parts[: wanted.numerator]))]
    return chosen


def _folds(part: pd.DataFrame, folds: int, seed: int) -> list[np.ndarray]:
    """Positions of each test fold."""
    from sklearn.model_selection import StratifiedGroupKFold  # 2 s, needed only when splits are made

    if part["group"].nunique() < folds:
        raise UserError(
            f"{part['group'].nunique()} groups cannot be divided into {folds} folds", todo="set data.split.folds"
        )
    classes = part["label"].fillna("").to_numpy(dtype=str)
    if np.unique(classes, return_counts=True)[1].max() < folds:  # every class is rarer than that: nothing to stratify
        classes = np.zeros(len(part), dtype=str)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # a class with fewer samples than folds cannot be in each; the audit says so in words of our own
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        groups = part["group"].to_numpy(dtype=str)
        return [test for _, test in splitter.split(np.zeros(len(part)), classes, groups)]


def split_hash(frame: pd.DataFrame) -> str:
    """SHA-256 over (id, split), whatever the order of the rows."""
    lines = sorted(f"{name}\t{split}\n" for name, split in zip(frame["id"], frame["split"], strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def save_splits(frame: pd.DataFrame, path: str | Path, **made_by: object) -> str:
    """Writes ``id, group, split`` as CSV, and beside it a JSON with their hash and how they were made.

    Returns:
        The hash.
    """
    path = Path(path)
    digest = split_hash(frame)
    # the table last: where it is, its hash is
    with atomic_write(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"sha256": digest, **made_by}, indent=1) + "\n", encoding="utf-8")
    with atomic_write(path) as temporary:
        frame[["id", "group", "split"]].to_csv(temporary, index=False)
    return digest


def load_splits(frame: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """The same table with the splits saved earlier.

    Raises:
        UserError: the file was altered, or does not say the split of a row.
    """
    path = Path(path)
    try:
        saved = pd.read_csv(path, dtype=str, keep_default_na=False)
        digest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"saved splits '{path}' cannot be read: {error}") from error
    if split_hash(saved) != digest:
        raise UserError("the saved splits were altered after they were made", str(path), "restore the file")
    split = frame["id"].map(dict(zip(saved["id"], saved["split"], strict=True)))
    unknown = frame["id"][split.isna()].tolist()
    if unknown:
        raise UserError(
            f"{len(unknown)} rows have no saved split: {', '.join(unknown[:5])}", str(path), "use the same manifest"
        )
    return frame.assign(split=split.astype(object))
