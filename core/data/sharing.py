"""Data that may not be shared: what leaves the run names nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pandas as pd

OPAQUE = ("id", "group", "unit")  # kept, because items must be paired and resampled, but as opaque names


def opaque(value: str, salt: str) -> str:
    """A name that cannot be traced back without the run's salt; equal values stay equal within a run."""
    return hashlib.sha256(f"{salt}\0{value}".encode()).hexdigest()[:16]


def redact(frame: pd.DataFrame, salt: str, keep: Sequence[str] = ("split", "label")) -> pd.DataFrame:
    """A table for a report of restricted data.

    ``id``, ``group`` and ``unit`` become opaque; truth values, fractional numbers and the columns in ``keep`` stay.
    Everything else is dropped: text, and integers as well, since a record number is one.

    Args:
        frame: items of an evaluation or rows of a manifest.
        salt: secret of the run, never written to an output.
        keep: harmless columns: class names, splits, what an evaluator counted.
    """
    kept = {}
    for name in frame.columns:
        column = frame[name]
        if name in OPAQUE:
            kept[name] = column.map(lambda value: opaque(str(value), salt)).astype(object)
        elif name in keep or pd.api.types.is_bool_dtype(column) or pd.api.types.is_float_dtype(column):
            kept[name] = column
    return pd.DataFrame(kept, index=frame.index)
