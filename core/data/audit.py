"""What would invalidate a result, looked for before anything is trained."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from rich.progress import track

from core.data.columns import SPLITS, WINDOW
from core.data.manifest import Manifest
from core.types import UserError

NAMED = 5  # examples in a sentence
RARE = 5  # a class with fewer pictures than this is told
OF_CLASSES = ("class_counts", "unseen_class", "untested_class")  # findings that say something of the labels alone


@dataclass(frozen=True)
class Finding:
    """One thing an audit found."""

    severity: Literal["refuse", "warn", "info"]  # refuse: a result on these splits would mean nothing
    check: str  # "group_leak", "duplicate_images", "class_counts", "empty_split", ...
    message: str
    examples: tuple[str, ...] = ()  # ids, groups or paths
    todo: str = ""

    def line(self, restricted: bool) -> str:
        """For the console; of restricted data without the examples that the message quotes."""
        text = f"{self.check}: {len(self.examples)} found" if restricted else self.message
        return f"{self.severity}: {text}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def audit(manifest: Manifest, hash_images: bool = True, progress: bool = True) -> list[Finding]:
    """Looks for leaks, duplicates, empty splits and rare classes.

    A group or a slide in two splits, the same picture (byte for byte, same window) in two splits, and an empty
    training or test split are refusals. Without splits only duplicates and class counts are told.

    Args:
        manifest: with or without splits.
        hash_images: compares contents; only files of equal size are read.
        progress: shows a bar.
    """
    frame = manifest.frame
    pictures = frame[frame["path"].notna()]
    findings = [_class_counts(pictures)] if pictures["label"].notna().any() else []
    if pictures["split"].notna().all() and len(pictures):
        findings += _empty_splits(pictures)
        findings += _group_leaks(pictures)
        findings += _path_leaks(pictures)
        findings += _classes_by_split(pictures)
    if hash_images:
        findings += _duplicates(pictures, manifest.root, progress)
    order = {"refuse": 0, "warn": 1, "info": 2}
    return sorted(findings, key=lambda finding: order[finding.severity])


def refuse(findings: Sequence[Finding], where: str = "") -> None:
    """Raises a UserError that names every refusal; returns if there is none."""
    bad = [finding for finding in findings if finding.severity == "refuse"]
    if bad:
        raise UserError("; ".join(finding.message for finding in bad), where, bad[0].todo)


def _some(values: Sequence[str]) -> str:
    rest = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    return ", ".join(values[:NAMED]) + rest


def _empty_splits(pictures: pd.DataFrame) -> list[Finding]:
    found = []
    for name in SPLITS:
        if not (pictures["split"] == name).any():
            todo = "correct the column 'split', or leave it out: splits are then made by group"
            severity: Literal["refuse", "warn"] = "warn" if name == "val" else "refuse"
            found.append(Finding(severity, "empty_split", f"no picture has the split '{name}'", (), todo))
    return found


def _group_leaks(pictures: pd.DataFrame) -> list[Finding]:
    splits = pictures.groupby("group", sort=True)["split"].nunique()
    leaks = [str(group) for group in splits.index[splits > 1]]
    if not leaks:
        return []
    message = f"{len(leaks)} groups are in more than one split: {_some(leaks)}"
    todo = "put every group into one split, or leave the column 'split' out"
    return [Finding("refuse", "group_leak", message, tuple(leaks), todo)]


def _path_leaks(pictures: pd.DataFrame) -> list[Finding]:
    """Windows of one slide in two splits, whatever the groups say."""
    splits = pictures.groupby("path", sort=True)["split"].nunique()
    leaks = [str(path) for path in splits.index[splits > 1]]
    if not leaks:
        return []
    message = f"{len(leaks)} files are in more than one split: {_some(leaks)}"
    todo = "give all rows of a file one group (the patient), and make the splits again"
    return [Finding("refuse", "path_leak", message, tuple(leaks), todo)]


def _class_counts(pictures: pd.DataFrame) -> Finding:
    counts = pictures["label"].value_counts().sort_index()
    text = ", ".join(f"{label} {count}" for label, count in counts.items())
    rare = tuple(str(label) for label, count in counts.items() if count < RARE)
    if rare:
        return Finding("warn", "class_counts", f"{text}; fewer than {RARE} pictures: {_some(rare)}", rare)
    return Finding("info", "class_counts", text)


def _classes_by_split(pictures: pd.DataFrame) -> list[Finding]:
    train = set(pictures["label"][pictures["split"] == "train"].dropna())
    test = set(pictures["label"][pictures["split"] == "test"].dropna())
    found = []
    if train and test - train:
        unseen = sorted(test - train)
        found.append(Finding("warn", "unseen_class", f"tested but not trained on: {_some(unseen)}", tuple(unseen)))
    if test and train - test:
        untested = sorted(train - test)
        found.append(
            Finding("warn", "untested_class", f"trained on but not tested: {_some(untested)}", tuple(untested))
        )
    return found


def _duplicates(pictures: pd.DataFrame, root: Path, progress: bool) -> list[Finding]:
    digests = content_hashes([root / path for path in pictures["path"].unique()], progress)
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    windows = pictures[list(WINDOW)].to_numpy(np.float64)
    for row, path in enumerate(pictures["path"]):
        digest = digests.get(root / path, str(path))  # a file of a size of its own has no twin
        alike[(digest, *(f"{value:g}" for value in windows[row]))].append(row)
    pairs = [rows for rows in alike.values() if len(rows) > 1]
    if not pairs:
        return []
    ids, splits = pictures["id"].tolist(), pictures["split"].tolist()
    across = [rows for rows in pairs if len({splits[row] for row in rows}) > 1]
    within = [rows for rows in pairs if rows not in across]
    found = []
    for rows_of, severity, words in ((across, "refuse", "in different splits"), (within, "warn", "in one split")):
        if rows_of:
            names = [" = ".join(str(ids[row]) for row in rows) for rows in rows_of]
            message = f"{len(names)} pictures occur more than once {words}: {_some(names)}"
            todo = "keep one row of each, or give them the same group and make the splits again"
            found.append(Finding(severity, "duplicate_images", message, tuple(names), todo))  # type: ignore[arg-type]
    return found


def content_hashes(files: Sequence[Path], progress: bool = True) -> dict[Path, str]:
    """SHA-256 of every file that has the size of another one; equal files have equal sizes, so no other is read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for file in files:
        by_size[file.stat().st_size].append(file)
    suspects = [file for same in by_size.values() if len(same) > 1 for file in same]
    with ThreadPoolExecutor() as pool:
        digests = track(
            pool.map(_digest, suspects),
            "comparing pictures",
            total=len(suspects),
            disable=not progress,
            transient=True,
        )
        return dict(zip(suspects, digests, strict=True))


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
