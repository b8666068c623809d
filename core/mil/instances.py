"""Bags out of one table with a row an instance, as multiple-instance benchmarks come."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from core.mil.bags import Bag
from core.types import UserError


@dataclass(frozen=True)
class InstanceTable:
    """A CSV (or CSV.gz) of instances as a :class:`core.mil.features.FeatureLayout`; instances have no place.

    Coordinates are the number of the instance in its bag, along x.
    """

    bag: str = "bag"  # column that says which bag a row belongs to
    prefix: str = "f"  # feature columns are this and a number, in the order of their numbers

    def find(self, folder: Path) -> dict[str, Path]:
        """All bags of the table, which takes the place of a folder."""
        if not Path(folder).is_file():
            raise UserError(f"'{folder}' is no table of instances", todo="give a CSV with a row an instance")
        return {name: Path(folder) for name in _bags(Path(folder), self.bag, self.prefix)}

    def read(self, path: Path, id: str, resolution: float | None = None) -> Bag:
        bags = _bags(Path(path), self.bag, self.prefix)
        if id not in bags:
            raise UserError(f"the table of instances has no bag '{id}'", str(path), "correct the manifest")
        features = bags[id]
        places = np.stack([np.arange(len(features)), np.zeros(len(features))], axis=1).astype(np.float32)
        return Bag(id, features, places, 1.0, "um", f"table@{Path(path).name}")


@lru_cache(maxsize=2)
def _bags(path: Path, bag: str, prefix: str) -> dict[str, np.ndarray]:
    """Features [T, D] float32 of every bag.

    Raises:
        UserError: a column is missing or holds no numbers.
    """
    frame = pd.read_csv(path, dtype={bag: str}, keep_default_na=False, na_values=[""])
    named = [name for name in map(str, frame.columns) if name.startswith(prefix) and name[len(prefix) :].isdecimal()]
    columns = sorted(named, key=lambda name: int(name.removeprefix(prefix)))
    if bag not in frame or not columns:
        missing = f"no column '{bag}'" if bag not in frame else f"no columns {prefix}1, {prefix}2, ..."
        raise UserError(
            f"the table of instances has {missing}", str(path), "set bags.layout.bag and bags.layout.prefix"
        )
    if frame[bag].isna().any():
        raise UserError(f"{int(frame[bag].isna().sum())} rows belong to no bag", str(path), f"fill the column '{bag}'")
    try:
        values = frame[columns].to_numpy(np.float32)
    except ValueError as error:
        raise UserError(f"a feature is no number: {error}", str(path)) from error
    return {str(name): values[rows] for name, rows in frame.groupby(bag, sort=False).indices.items()}
