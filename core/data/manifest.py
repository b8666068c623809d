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

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from core.data.columns import RESOLUTIONS, ManifestOptions, normalise
from core.data.paths import check_paths
from core.data.table import Rows, read_table, row_names
from core.files import atomic_write, sha256
from core.types import Fate, Unit, UserError

__all__ = ["Manifest", "ManifestOptions", "require"]


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
    def read(
        cls,
        path: str | Path,
        options: ManifestOptions | None = None,
        need: str | None = None,
        pictures: bool = True,
    ) -> Manifest:
        """Reads and validates a CSV or Parquet file; ``need`` is what every picture must have (:func:`require`).

        Args:
            path: of the table.
            options: how it becomes a manifest.
            need: "caption" or "label".
            pictures: looks for the files; who learns from features does not need them.

        Raises:
            UserError: the file is missing, empty or malformed; a column is missing or said twice; an id occurs twice; a
                number, split or window is wrong; a path does not match the pattern; no picture is there. The message
                names the rows as a spreadsheet counts them: the header of a CSV is row 1.
        """
        options = options or ManifestOptions()
        path = Path(path)
        check_paths(path, options.root, options.table)
        root = Path(options.root) if options.root is not None else path.parent
        return cls.of(read_table(path), path, root, sha256(path), options, need, pictures)

    @classmethod
    def of(
        cls,
        table: pd.DataFrame,
        path: Path,
        root: Path,
        digest: str,
        options: ManifestOptions,
        need: str | None = None,
        pictures: bool = True,
    ) -> Manifest:
        """Validates a table that was read or scanned from ``path``."""
        frame, notes, unit = normalise(Rows(table, path), options)
        manifest = cls(frame, path, root, digest, (), tuple(notes), unit)
        if need is not None:  # before the pictures are looked for: what is wrong with the table itself comes first
            require(manifest, need)
        frame, fates = _drop_missing(frame, root, path) if pictures else (frame, ())
        return replace(manifest, frame=frame, fates=fates)

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


def _drop_missing(frame: pd.DataFrame, root: Path, path: Path) -> tuple[pd.DataFrame, tuple[Fate, ...]]:
    files = frame["path"].dropna().unique()
    gone = [name for name in files if not (root / name).is_file()]
    if not gone:
        return frame, ()
    if len(gone) == len(files):
        raise UserError(
            f"{'the picture' if len(gone) == 1 else f'none of {len(gone)} pictures exists, such as'} "
            f"'{root / gone[0]}'{' does not exist' if len(gone) == 1 else ''}",
            f"{path}, {row_names(path, frame['row'].to_numpy()[(frame['path'] == gone[0]).to_numpy()])}",
            "set manifest_options.root to the folder that paths are relative to",
        )
    kept = frame[~frame["path"].isin(gone)].reset_index(drop=True)
    fates = tuple(Fate(name, "refused", "the file does not exist") for name in gone)
    return kept, fates
