"""The manifest: one table that says what there is to learn from, read once and validated with row numbers.

Columns after reading (whatever they were called in the file):

===========  ==========================================================================================
``id``       unique name of the row; made of the path (and window) where the file has none
``path``     picture, relative to ``Manifest.root`` or absolute; None in a text-only row
``group``    independent unit (patient, scene, source picture); the row's id where it is not known
``captions`` list of str, possibly empty; from ``caption`` or ``caption.1``, ``caption.2`` ...
``label``    class name or None
``concepts`` list of concept ids; several in one cell are separated by ``|``
``resolution``  physical size of a level-0 pixel from ``mpp`` (um), ``gsd_m`` (m) or ``spacing_mm`` (mm); NaN: not given
``x y w h``  window in level-0 pixels (top left corner, width, height); all NaN: the whole picture
``split``    train, val or test; None everywhere when the file has no splits
``site time event``  as in the file: text, number, number
``row``      position in the file, from 0
===========  ==========================================================================================

Every other column is kept as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from core.data.paths import check_paths
from core.files import atomic_write, sha256
from core.types import Fate, Unit, UserError

SPLITS = ("train", "val", "test")
RESOLUTIONS: Mapping[str, Unit] = {"mpp": "um", "gsd_m": "m", "spacing_mm": "mm"}
WINDOW = ("x", "y", "w", "h")
TEXT = ("id", "path", "group", "label", "split", "site")
CAPTION = re.compile(r"caption(\.\d+)?")
SHOWN = 5  # rows named in an error


@dataclass(frozen=True)
class ManifestOptions:
    """How a user's table becomes a manifest."""

    columns: Mapping[str, str] | None = None  # our name -> name in the file
    pattern: str | None = None  # regular expression with named groups; each becomes a column
    pattern_column: str = "path"  # which column the pattern reads
    root: str | None = None  # folder that paths are relative to; None: the manifest's own
    table: str | None = None  # a second table joined to the first
    on: str = "group"  # the column both tables share


@dataclass(frozen=True)
class Manifest:
    """A validated table, where it came from, and which of its pictures are not there."""

    frame: pd.DataFrame
    path: Path
    root: Path
    sha256: str
    fates: tuple[Fate, ...] = ()  # pictures that are missing; their rows are not in ``frame``
    notes: tuple[str, ...] = ()  # what a person should know: text-only rows, groups without a partner in the table
    unit: Unit | None = None  # of ``resolution``

    @classmethod
    def read(cls, path: str | Path, options: ManifestOptions | None = None) -> Manifest:
        """Reads and validates a CSV or Parquet file.

        Raises:
            UserError: the file is missing, empty or malformed; a column is missing or said twice; an id occurs twice; a
                number, split or window is wrong; a path does not match the pattern; no picture is there. The message
                names the rows as a spreadsheet counts them: the header of a CSV is row 1.
        """
        options = options or ManifestOptions()
        path = Path(path)
        check_paths(path, options.root, options.table)
        root = Path(options.root) if options.root is not None else path.parent
        return cls.of(read_table(path), path, root, sha256(path), options)

    @classmethod
    def of(cls, table: pd.DataFrame, path: Path, root: Path, digest: str, options: ManifestOptions) -> Manifest:
        """Validates a table that was read or scanned from ``path``."""
        frame, notes, unit = normalise(_Rows(table, path), options)
        frame, fates = _drop_missing(frame, root, path)
        return cls(frame, path, root, digest, fates, tuple(notes), unit)

    @property
    def text_only(self) -> int:
        """Number of rows without a picture."""
        return int(self.frame["path"].isna().sum())

    def file(self, row: int) -> Path:
        """The picture of a row."""
        return self.root / str(self.frame["path"].iloc[row])

    def with_frame(self, frame: pd.DataFrame) -> Manifest:
        """The same manifest with another table (splits assigned, rows dropped)."""
        return replace(self, frame=frame.reset_index(drop=True))

    def write(self, path: str | Path) -> None:
        """Writes a CSV that :meth:`read` reads back to the same table; paths are written absolute."""
        with atomic_write(path) as temporary:
            self.flat().to_csv(temporary, index=False)

    def flat(self) -> pd.DataFrame:
        """The table as a user's file has it: a column a caption, concepts joined, empty columns left out."""
        frame = self.frame.drop(columns="row")
        root = self.root.absolute()
        frame["path"] = [None if pd.isna(value) else str(root / value) for value in frame["path"]]
        captions = frame.pop("captions")
        for number in range(int(captions.map(len).max()) if len(captions) else 0):
            values = [texts[number] if number < len(texts) else None for texts in captions]
            frame[f"caption.{number + 1}"] = pd.Series(values, frame.index, dtype=object)
        frame["concepts"] = ["|".join(ids) or None for ids in frame["concepts"]]
        names = {unit: name for name, unit in RESOLUTIONS.items()}
        if self.unit is None:
            frame = frame.drop(columns="resolution")
        else:
            frame = frame.rename(columns={"resolution": names[self.unit]})
        return frame.drop(columns=[name for name in frame if name != "path" and frame[name].isna().all()])


class _Rows:
    """A table with a way to name its rows to the person who wrote it."""

    def __init__(self, frame: pd.DataFrame, path: Path) -> None:
        self.path, self.positions = path, frame.index.to_numpy(np.int64)
        self.frame = frame.reset_index(drop=True)

    def refuse(self, bad: pd.Series | np.ndarray, what: str, todo: str, column: str | None = None) -> None:
        """Raises a UserError naming the rows where ``bad`` is true; returns if there are none."""
        positions = np.flatnonzero(np.asarray(bad))
        if len(positions):
            where = f"{self.path}, {row_names(self.path, self.positions[positions])}"
            if column is not None:
                values = ", ".join(repr(self.frame[column].iloc[row]) for row in positions[:SHOWN])
                where += f" ({column}: {values})"
            raise UserError(what, where, todo)


def row_names(path: Path, positions: Sequence[int] | np.ndarray) -> str:
    """'row 2', 'rows 2, 7 and 13 more': as a spreadsheet counts (the header of a CSV is row 1)."""
    first = 1 if path.suffix == ".parquet" else 2
    names = ", ".join(str(int(position) + first) for position in positions[:SHOWN])
    rest = f" and {len(positions) - SHOWN} more" if len(positions) > SHOWN else ""
    return f"row{'s' if len(positions) > 1 else ''} {names}{rest}"


def read_table(path: Path) -> pd.DataFrame:
    """A CSV (every cell as text, an empty one missing) or Parquet file as it is; the index counts its rows from 0.

    Empty lines of a CSV are skipped but counted.

    Raises:
        UserError: it cannot be parsed, has no rows, or names a column twice.
    """
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(
                path,
                header=None,
                dtype=str,  # no type guessing: '001' and 'NA' are names
                keep_default_na=False,
                na_values=[""],
                encoding="utf-8-sig",
                skip_blank_lines=False,
            )
            header = frame.iloc[0]
            if header.isna().any():
                raise UserError("a column has no name", str(path), "give every column of the header a name")
            frame = frame.iloc[1:].set_axis([str(name).strip() for name in header], axis=1)
            frame = frame.set_axis(pd.RangeIndex(len(frame)), axis=0).dropna(how="all")
    # the errors of parsing, decoding and Arrow are ValueErrors
    except (ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        todo = "save it as comma-separated UTF-8 with a header, or as Parquet"
        raise UserError(f"'{path}' cannot be read as a table: {reason}", todo=todo) from error
    twice = sorted({str(name) for name in frame.columns[frame.columns.duplicated()]})
    if twice:
        raise UserError(f"the column '{twice[0]}' occurs twice", str(path), "rename one of them")
    if frame.empty:
        raise UserError(
            f"the manifest '{path}' has no rows", todo="give a table with at least one row below the header"
        )
    return frame


def normalise(rows: _Rows, options: ManifestOptions) -> tuple[pd.DataFrame, list[str], Unit | None]:
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


def require(manifest: Manifest, need: str) -> None:
    """Refuses rows with a picture that lack what training needs.

    Args:
        manifest: a manifest.
        need: "caption" or "label".

    Raises:
        UserError: naming the rows.
    """
    frame = manifest.frame
    lacking = frame["captions"].map(len) == 0 if need == "caption" else frame["label"].isna()
    bad = lacking & frame["path"].notna()
    if bad.any():
        # the index of the frame may be new; "row" remembers the file's
        rows = frame["row"].to_numpy()[bad.to_numpy()]
        other = "label" if need == "caption" else "caption"
        raise UserError(
            f"{int(bad.sum())} of {int(frame['path'].notna().sum())} pictures have no {need}",
            f"{manifest.path}, {row_names(manifest.path, rows)}",
            f"fill the column '{need}', name another by manifest_options.columns={{{need}: ...}}, or learn from "
            f"{other}s with data.captions.source={other}",
        )


def _rename(rows: _Rows, columns: Mapping[str, str]) -> None:
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


def _extract(rows: _Rows, pattern: str, column: str) -> None:
    compiled = compile_pattern(pattern)
    if column not in rows.frame:
        raise UserError(f"manifest_options.pattern_column '{column}' is no column", str(rows.path), "correct the name")
    found = [None if pd.isna(value) else compiled.search(str(value)) for value in rows.frame[column]]
    bad = np.array([match is None for match in found]) & rows.frame[column].notna().to_numpy()
    todo = "correct manifest_options.pattern, or leave those rows out"
    rows.refuse(bad, f"values do not match manifest_options.pattern '{pattern}'", todo, column)
    for name in compiled.groupindex:
        rows.frame[name] = pd.Series([match and match.group(name) for match in found], rows.frame.index, dtype=object)


def _join(rows: _Rows, path: Path, on: str) -> list[str]:
    table = read_table(path)
    for name, frame in ((rows.path, rows.frame), (path, table)):
        if on not in frame:
            known = ", ".join(map(str, frame.columns[:12]))
            raise UserError(
                f"manifest_options.on '{on}' is no column; there are: {known}", str(name), "correct the name"
            )
    _Rows(table, path).refuse(table[on].duplicated(), f"'{on}' occurs twice in the table", "keep one row each", on)
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


def _resolution(rows: _Rows) -> Unit | None:
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


def _numbers(rows: _Rows, name: str) -> pd.Series:
    """A column as float64, NaN where the cell is empty."""
    values = pd.to_numeric(rows.frame[name], errors="coerce").astype(np.float64)
    bad = (values.isna() & rows.frame[name].notna()) | np.isinf(values)
    rows.refuse(bad, f"{name} is not a number", "write it with a decimal point, or leave the cell empty", name)
    return values


def _texts(rows: _Rows) -> None:
    for name in TEXT:
        values = rows.frame[name] if name in rows.frame else [None] * len(rows.frame)
        keep = name == "path"  # a file name may end in a space
        cells = [None if pd.isna(v) or not str(v).strip() else str(v) if keep else str(v).strip() for v in values]
        rows.frame[name] = pd.Series(cells, rows.frame.index, dtype=object)


def _lists(rows: _Rows) -> None:
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


def _windows(rows: _Rows) -> None:
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


def _labels(rows: _Rows) -> None:
    for name in rows.frame:
        if str(name).startswith("label."):
            values = _numbers(rows, str(name))
            todo = "use 1 (there), 0 (not there), -1 (uncertain) or nothing (unknown)"
            rows.refuse(values.notna() & ~values.isin((-1, 0, 1)), f"{name} is no finding", todo, str(name))
            rows.frame[name] = values


def _split(rows: _Rows) -> None:
    split = rows.frame["split"]
    if split.isna().all():
        return
    todo = "use train, val or test in every row, or leave the column out: splits are then made by group"
    rows.refuse(~split.isin(SPLITS) & split.notna(), "split is none of train, val and test", todo, "split")
    rows.refuse(split.isna(), "split is given in some rows and empty in others", todo)


def _identify(rows: _Rows) -> list[str]:
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


def _drop_missing(frame: pd.DataFrame, root: Path, path: Path) -> tuple[pd.DataFrame, tuple[Fate, ...]]:
    files = frame["path"].dropna().unique()
    gone = [name for name in files if not (root / name).is_file()]
    if not gone:
        return frame, ()
    if len(gone) == len(files):
        raise UserError(
            f"{'the picture is' if len(gone) == 1 else f'none of {len(gone)} pictures is'} there: '{root / gone[0]}'",
            f"{path}, {row_names(path, frame['row'].to_numpy()[(frame['path'] == gone[0]).to_numpy()])}",
            "set manifest_options.root to the folder that paths are relative to",
        )
    kept = frame[~frame["path"].isin(gone)].reset_index(drop=True)
    fates = tuple(Fate(name, "refused", "the file does not exist") for name in gone)
    return kept, fates
