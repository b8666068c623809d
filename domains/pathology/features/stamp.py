"""STAMP's features: ``<extractor>[-hash]/<id>.h5`` with ``feats`` (float16) and ``coords`` in microns.

Three generations: ``tile_size_um`` (2.x), ``tile_size`` with ``unit`` (2.0), and neither: tiles of 224 px that stand
for 256 microns, with coordinates in those pixels. Files of a later major version are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from core.mil.bags import Bag
from core.mil.features import dataset, open_hdf5
from core.types import UserError
from domains.pathology.features.common import list_files, make_bag, not_claimed, number, one_below, places

KNOWN_MAJOR = 2
HISTORIC_PX, HISTORIC_UM = 224, 256.0


class StampFeatures:
    """Reads STAMP's layout; see :class:`core.mil.features.FeatureLayout`. A manifest's resolution is not needed."""

    def find(self, folder: Path) -> dict[str, Path]:
        """Takes the folder of one extractor, or the folder above it that holds no second one."""
        return list_files(one_below(Path(folder), ("*",), "STAMP"), (".h5",), "STAMP")

    def read(self, path: Path, id: str, resolution: float | None = None) -> Bag:
        path = Path(path)
        with open_hdf5(path) as file:
            tags = dict(file.attrs)
            if "feats" not in file:
                raise not_claimed(path, "STAMP")
            _check(tags, path)
            if "coords" not in file:
                raise UserError("STAMP's feature file has no coordinates", str(path), "extract the features again")
            features, coordinates = dataset(file, "feats", path), dataset(file, "coords", path)
        corners, tile_um = _microns(tags, places(coordinates, path), path)
        return make_bag(id, path, features, corners, tile_um, str(tags.get("extractor", path.parent.name)))


def _check(tags: dict[str, Any], path: Path) -> None:
    major = str(tags.get("stamp_version", KNOWN_MAJOR)).partition(".")[0]
    if major.isdigit() and int(major) > KNOWN_MAJOR:
        raise UserError(f"the file was written by STAMP {tags['stamp_version']}, newer than {KNOWN_MAJOR}.x", str(path))
    kind = tags.get("feat_type", "tile")
    if kind != "tile":
        raise UserError(f"STAMP's features are of type '{kind}', not one a tile", str(path), "give the tiles' features")
    unit = tags.get("unit", "um")
    if unit != "um":
        raise UserError(f"STAMP's coordinates are in '{unit}', not in microns", str(path))


def _microns(tags: dict[str, Any], corners: np.ndarray, path: Path) -> tuple[np.ndarray, float]:
    """Corners and side of a tile in microns."""
    if "tile_size_um" in tags:
        return corners, number(tags, "tile_size_um", path)
    if "tile_size" in tags and "unit" in tags:
        return corners, number(tags, "tile_size", path)
    strides = [np.diff(np.unique(axis)) for axis in corners.T]
    stride = min((float(steps.min()) for steps in strides if len(steps)), default=0.0)
    if round(number({"tile_size": stride, **tags}, "tile_size", path)) == HISTORIC_PX:
        return corners / HISTORIC_PX * HISTORIC_UM, HISTORIC_UM
    raise UserError(f"the file does not say how large a tile is, and its tiles are {stride:g} apart", str(path),
                    f"extract the features again: only a distance of {HISTORIC_PX} is known")  # fmt: skip
