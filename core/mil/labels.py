"""What is to be learned of each slide, as numbers by column name.

===================  =======  =========================================================================================
column               dtype    values
===================  =======  =========================================================================================
one with classes     int64    number of the class in the given order (grades: lowest first); -1 unknown
``label.<finding>``  int64    1 there, 0 not there, -1 unknown
``captions``         int64    0 something is written of it, -1 nothing is
any other            float64  the number (``time``, ``event``, a regression target); NaN unknown
===================  =======  =========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from core.data.manifest import Manifest
from core.data.table import row_names
from core.types import UserError

CAPTIONS = "captions"  # of a task that learns from what is written: bags without a word are left out and named
FINDING = "label."  # prefix of the columns of a multi-label task


def bag_labels(
    manifest: Manifest, columns: Sequence[str], classes: Mapping[str, Sequence[str]] | None = None
) -> dict[str, np.ndarray]:
    """Label columns of a manifest as numbers, one value a row; see the table above.

    Args:
        manifest: the table.
        columns: which columns to read.
        classes: names of the classes of those columns that hold names.

    Raises:
        UserError: a column is not there, or a value is no number or none of the classes; rows are named.
    """
    classes = classes or {}
    frame = manifest.frame
    missing = [column for column in columns if column not in frame]
    if missing:
        raise UserError(
            f"the manifest has no column '{missing[0]}'",
            str(manifest.path),
            f"name it by manifest_options.columns={{{missing[0]}: ...}}; there are: {', '.join(frame.columns)}",
        )
    return {column: _numbers(manifest, column, classes.get(column)) for column in columns}


def known(values: np.ndarray) -> np.ndarray:
    """Where a label column holds a value, bool."""
    return values >= 0 if values.dtype.kind == "i" else ~np.isnan(values)


def _numbers(manifest: Manifest, column: str, classes: Sequence[str] | None) -> np.ndarray:
    values = manifest.frame[column]
    if column == CAPTIONS:
        return np.array([0 if texts else -1 for texts in values], np.int64)
    empty = values.isna()
    if classes is not None:
        places = values.map(str, na_action="ignore").map({name: number for number, name in enumerate(classes)})
        _refuse(manifest, column, places.isna() & ~empty, f"none of the classes {', '.join(classes)}")
        return places.fillna(-1).to_numpy(np.int64)
    numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
    _refuse(manifest, column, (numbers.isna() | np.isinf(numbers)) & ~empty, "no number")
    if not column.startswith(FINDING):
        return numbers.to_numpy(np.float64)
    _refuse(manifest, column, ~numbers.isin((0, 1, -1)) & ~empty, "not 1 (there), 0 (not there) or -1 (unknown)")
    return numbers.fillna(-1).to_numpy(np.int64)


def _refuse(manifest: Manifest, column: str, bad: pd.Series, what: str) -> None:
    rows = np.flatnonzero(bad.to_numpy())
    if len(rows):
        raise UserError(
            f"{column} is '{manifest.frame[column].iloc[rows[0]]}', {what}",
            f"{manifest.path}, {row_names(manifest.path, manifest.frame['row'].to_numpy()[rows])}",
            "correct it, or leave it empty where it is not known",
        )
