"""A user's table as it is, and how to name its rows to the person who wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from core.types import UserError

SHOWN = 5  # rows named in an error


class Rows:
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
