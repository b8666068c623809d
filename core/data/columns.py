"""From the columns of a user's table to those of a manifest: renamed, extracted, joined, checked row by row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from core.data.table import SHOWN, Rows, read_table
from core.types import Unit, UserError

SPLITS = ("train", "val", "test")
RESOLUTIONS: Mapping[str, Unit] = {"mpp": "um", "gsd_m": "m", "spacing_mm": "mm"}
WINDOW = ("x", "y", "w", "h")
TEXT = ("id", "path", "group", "label", "split", "site")
CAPTION = re.compile(r"caption(\.\d+)?")


@dataclass(frozen=True)
class ManifestOptions:
    """How a user's table becomes a manifest."""

    columns: Mapping[str, str] | None = None  # our name -> name in the file
    pattern: str | None = None  # regular expression with named groups; each becomes a column
    pattern_column: str = "path"  # which column the pattern reads
    root: str | None = None  # folder that paths are relative to; None: the manifest's own
    table: str | None = None  # a second table joined to the first
    on: str = "group"  # the column both tables share
    one_per: str | None = None  # rows of one value of this column (a table of tiles or instances) become one


def normalise(rows: Rows, options: ManifestOptions) -> tuple[pd.DataFrame, list[str], Unit | None]:
    """Renames, extracts, joins and validates; returns the table, notes and the unit of its resolution."""
    _rename(rows, options.columns or {})
    if "path" not in rows.frame:
        known = ", ".join(map(str, rows.frame.columns[:12]))
        todo = "name the column that holds the pictures: manifest_options.columns={path: ...}"
        raise UserError(f"the column 'path' is missing; there are: {known}", str(rows.path), todo)
    notes: list[str] = []
    if options.pattern is not None:
        _extract(rows, options.pattern, options.pattern_column)
    if options.table is not None:
        notes += _join(rows, Path(options.table), options.on)
    if options.one_per is not None:
        rows = _collapse(rows, options.one_per)
    unit = _resolution(rows)
    _texts(rows)
    _lists(rows)
    _windows(rows)
    for name in ("time", "event"):
        if name in rows.frame:
            rows.frame[name] = _numbers(rows, name)
    _labels(rows)
    _split(rows)
    nothing = rows.frame["path"].isna() & (rows.frame["captions"].map(len) == 0)
    rows.refuse(nothing, "a row has neither a picture nor a caption", "give it a path or delete it")
    notes += _identify(rows)
    text_only = int(rows.frame["path"].isna().sum())
    if text_only:
        notes.append(f"{text_only} rows have no picture: text only")
    return rows.frame, notes, unit


def _rename(rows: Rows, columns: Mapping[str, str]) -> None:
    frame = rows.frame
    for ours, theirs in columns.items():
        if theirs not in frame:
            known = ", ".join(map(str, frame.columns[:12]))
            raise UserError(
                f"manifest_options.columns maps '{ours}' to '{theirs}', which is no column; there are: {known}",
                str(rows.path),
                "correct the name",
            )
        if ours != theirs and ours in frame:  # the mapping wins; what was called so is kept under another name
            frame = frame.rename(columns={ours: f"{ours}.original"})
    # copies, so that one column can serve as two (group and label of a tile)
    rows.frame = frame.assign(**{ours: frame[theirs] for ours, theirs in columns.items()})
    spent = {theirs for theirs in columns.values() if theirs not in columns}
    rows.frame = rows.frame.drop(columns=sorted(spent))


def _collapse(rows: Rows, column: str) -> Rows:
    """The first row of each value of a column; what is said of the whole must be said alike in all of them."""
    if column not in rows.frame:
        raise UserError(f"manifest_options.one_per '{column}' is no column", str(rows.path), "correct the name")
    keys = rows.frame[column]
    rows.refuse(keys.isna(), f"{column} is empty", "say which one the row belongs to", column)
    findings = [str(name) for name in rows.frame if str(name).startswith("label.")]
    for name in ("group", "label", "split", "site", "date", "time", "event", *findings):
        if name in rows.frame and name != column:
            differ = rows.frame.groupby(column, dropna=False)[name].transform("nunique", dropna=False) > 1
            rows.refuse(differ, f"rows of one {column} differ in {name}", "say the same in all of them", column)
    first = ~keys.duplicated().to_numpy()
    whole = rows.frame[first].drop(columns=[name for name in WINDOW if name in rows.frame])  # windows are of tiles
    return Rows(whole.set_axis(rows.positions[first], axis=0), rows.path)


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern with at least one named group.

    Raises:
        UserError: it is no regular expression, or names nothing.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"manifest_options.pattern '{pattern}' is no regular expression: {error}") from error
    if not compiled.groupindex:
        todo = r"name what it finds, for example (?P<group>[^/_]+)_"
        raise UserError(f"manifest_options.pattern '{pattern}' has no named group", todo=todo)
    return compiled


def _extract(rows: Rows, pattern: str, column: str) -> None:
    compiled = compile_pattern(pattern)
    if column not in rows.frame:
        raise UserError(f"manifest_options.pattern_column '{column}' is no column", str(rows.path), "correct the name")
    found = [None if pd.isna(value) else compiled.search(str(value)) for value in rows.frame[column]]
    bad = np.array([match is None for match in found]) & rows.frame[column].notna().to_numpy()
    todo = "correct manifest_options.pattern, or leave those rows out"
    rows.refuse(bad, f"values do not match manifest_options.pattern '{pattern}'", todo, column)
    for name in compiled.groupindex:
        rows.frame[name] = pd.Series([match and match.group(name) for match in found], rows.frame.index, dtype=object)


def _join(rows: Rows, path: Path, on: str) -> list[str]:
    table = read_table(path)
    for name, frame in ((rows.path, rows.frame), (path, table)):
        if on not in frame:
            known = ", ".join(map(str, frame.columns[:12]))
            raise UserError(
                f"manifest_options.on '{on}' is no column; there are: {known}", str(name), "correct the name"
            )
    Rows(table, path).refuse(table[on].duplicated(), f"'{on}' occurs twice in the table", "keep one row each", on)
    both = sorted(set(table.columns) & set(rows.frame.columns) - {on})
    if both:
        todo = "rename or delete it in one of them"
        raise UserError(f"the column '{both[0]}' is in the manifest and in the table joined to it", str(path), todo)
    keys = table[on].astype(str)
    mine = rows.frame[on].astype(str)
    joined = rows.frame.assign(**{on: mine}).merge(table.assign(**{on: keys}), on=on, how="left")
    alone = sorted(set(mine[rows.frame[on].notna()]) - set(keys))
    unused = sorted(set(keys) - set(mine))
    joined[on] = rows.frame[on].to_numpy()
    rows.frame = joined
    notes = []
    if len(alone) == mine.nunique():
        raise UserError(
            f"no value of '{on}' is in the table '{path}'", f"the manifest has {alone[:3]}, the table {unused[:3]}"
        )
    if alone:
        notes.append(f"{len(alone)} values of '{on}' are not in {path.name}: {', '.join(alone[:SHOWN])}")
    if unused:
        notes.append(f"{len(unused)} rows of {path.name} belong to no row of the manifest: {', '.join(unused[:SHOWN])}")
    return notes


def _resolution(rows: Rows) -> Unit | None:
    given = [name for name in RESOLUTIONS if name in rows.frame]
    if len(given) > 1:
        raise UserError(f"the columns {given[0]} and {given[1]} are both there", str(rows.path), "keep one")
    if not given:
        rows.frame["resolution"] = np.nan
        return None
    values = _numbers(rows, given[0])
    rows.refuse(values <= 0, f"{given[0]} is not positive", "give the size of a level-0 pixel", given[0])
    rows.frame = rows.frame.drop(columns=given[0]).assign(resolution=values)
    return RESOLUTIONS[given[0]]


def _numbers(rows: Rows, name: str) -> pd.Series:
    """A column as float64, NaN where the cell is empty."""
    values = pd.to_numeric(rows.frame[name], errors="coerce").astype(np.float64)
    bad = (values.isna() & rows.frame[name].notna()) | np.isinf(values)
    rows.refuse(bad, f"{name} is not a number", "write it with a decimal point, or leave the cell empty", name)
    return values


def _texts(rows: Rows) -> None:
    for name in TEXT:
        values = rows.frame[name] if name in rows.frame else [None] * len(rows.frame)
        keep = name == "path"  # a file name may end in a space
        cells = [None if pd.isna(v) or not str(v).strip() else str(v) if keep else str(v).strip() for v in values]
        rows.frame[name] = pd.Series(cells, rows.frame.index, dtype=object)


def _lists(rows: Rows) -> None:
    names = [str(name) for name in rows.frame if CAPTION.fullmatch(str(name))]
    names.sort(key=lambda name: int(name.partition(".")[2] or 0))
    columns = [rows.frame[name].tolist() for name in names]
    captions = [
        [str(v).strip() for v in cells if not pd.isna(v) and str(v).strip()] for cells in zip(*columns, strict=True)
    ]
    captions = captions or [[] for _ in range(len(rows.frame))]
    concepts: list[list[str]] = [[] for _ in range(len(rows.frame))]
    if "concepts" in rows.frame:
        cells = rows.frame["concepts"]
        concepts = [[] if _missing(v) else [part.strip() for part in _parts(v) if part.strip()] for v in cells]
    rows.frame = rows.frame.drop(columns=names)
    rows.frame["captions"] = pd.Series(captions, rows.frame.index, dtype=object)
    rows.frame["concepts"] = pd.Series(concepts, rows.frame.index, dtype=object)


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA


def _parts(value: object) -> list[str]:
    """Parquet may hold a list, a CSV holds A|B."""
    return str(value).split("|") if isinstance(value, str) else [str(part) for part in value]  # type: ignore[attr-defined]


def _windows(rows: Rows) -> None:
    there = [name for name in WINDOW if name in rows.frame]
    if there and len(there) < len(WINDOW):
        lacking = ", ".join(name for name in WINDOW if name not in there)
        todo = "give x, y, w and h (level-0 pixels), or none of them"
        raise UserError(
            f"the column{'s' if ',' in lacking else ''} {lacking} of a window is missing", str(rows.path), todo
        )
    for name in WINDOW:
        rows.frame[name] = _numbers(rows, name) if there else np.nan
    filled = rows.frame[list(WINDOW)].notna().sum(axis=1)
    todo = "give x, y, w and h (level-0 pixels), or leave all four empty"
    rows.refuse((filled > 0) & (filled < len(WINDOW)), "a window is incomplete", todo)
    rows.refuse((rows.frame["w"] <= 0) | (rows.frame["h"] <= 0), "a window has no extent", "w and h must be positive")


def _labels(rows: Rows) -> None:
    for name in rows.frame:
        if str(name).startswith("label."):
            values = _numbers(rows, str(name))
            todo = "use 1 (there), 0 (not there), -1 (uncertain) or nothing (unknown)"
            rows.refuse(values.notna() & ~values.isin((-1, 0, 1)), f"{name} is no finding", todo, str(name))
            rows.frame[name] = values


def _split(rows: Rows) -> None:
    split = rows.frame["split"]
    if split.isna().all():
        return
    todo = "use train, val or test in every row, or leave the column out: splits are then made by group"
    rows.refuse(~split.isin(SPLITS) & split.notna(), "split is none of train, val and test", todo, "split")
    rows.refuse(split.isna(), "split is given in some rows and empty in others", todo)


def _identify(rows: Rows) -> list[str]:
    """Fills ids and groups that are missing, and refuses ids that occur twice."""
    frame = rows.frame
    rows.frame["row"] = rows.positions
    ids = []
    for row, (name, path, *window) in enumerate(
        zip(frame["id"], frame["path"], *(frame[n] for n in WINDOW), strict=True)
    ):
        if name is None and path is None:
            name = f"text-{row}"
        elif name is None:
            name = path if np.isnan(window[0]) else f"{path}@{','.join(f'{value:g}' for value in window)}"
        ids.append(name)
    rows.frame["id"] = pd.Series(ids, frame.index, dtype=object)
    todo = "give each row an id of its own; several captions of one picture go into caption.1, caption.2 ..."
    rows.refuse(rows.frame["id"].duplicated(keep=False), "an id (or picture) occurs twice", todo, "id")
    unknown = frame["group"].isna()
    rows.frame["group"] = frame["group"].where(~unknown, rows.frame["id"])
    if unknown.any():
        return [f"{int(unknown.sum())} of {len(frame)} rows have no group: each counts as independent"]
    return []
