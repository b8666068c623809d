"""CLAM's features: ``h5_files/<id>.h5`` holds them with coordinates in level-0 pixels, and nothing else.

How large a tile is stands in the patches file of the same name (``patch_size`` times ``downsample``). Microns stand
nowhere in what CLAM writes; a patches file to which somebody added ``mpp`` is believed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.mil.bags import Bag
from core.mil.features import dataset, open_hdf5
from core.types import UserError
from domains.pathology.features.common import list_files, make_bag, microns, not_claimed, number, pixels


class ClamFeatures:
    """Reads CLAM's layout; see :class:`core.mil.features.FeatureLayout`.

    Args:
        patches: folder of the patches files; None looks for ``patches/`` beside and above the features.
        encoder: what made the features, which CLAM does not write down; None: the name of the folder.
    """

    def __init__(self, patches: str | Path | None = None, encoder: str | None = None) -> None:
        self.patches = None if patches is None else Path(patches)
        self.encoder = encoder

    def find(self, folder: Path) -> dict[str, Path]:
        folder = Path(folder)
        if (folder / "h5_files").is_dir():
            folder = folder / "h5_files"
        return list_files(folder, (".h5",), "CLAM")

    def read(self, path: Path, id: str, resolution: float | None = None) -> Bag:
        path = Path(path)
        with open_hdf5(path) as file:
            tags = dict(file["coords"].attrs) if "coords" in file else {}
            if "features" not in file or "coords" not in file or "patch_size_level0" in tags:
                raise not_claimed(path, "CLAM")
            features, coordinates = dataset(file, "features", path), dataset(file, "coords", path)
        corners = pixels(coordinates, path, "CLAM")
        tile_px, mpp = self._patches(path, id, corners)
        why = "CLAM writes no microns per pixel, and its patches file has none"
        mpp = microns(path, resolution if resolution is not None else mpp, why)
        folder = path.parent.parent if path.parent.name == "h5_files" else path.parent
        return make_bag(id, path, features, corners * mpp, tile_px * mpp, self.encoder or f"clam:{folder.name}")

    def _patches(self, path: Path, id: str, corners: np.ndarray) -> tuple[float, float | None]:
        """Side of a tile in level-0 pixels, and microns per pixel where somebody wrote them down."""
        near = [self.patches] if self.patches else [parent / "patches" for parent in list(path.parents)[:3]]
        file_name = next((folder / f"{id}.h5" for folder in near if (folder / f"{id}.h5").is_file()), None)
        if file_name is None:
            raise UserError(
                f"the patches file {id}.h5, which says how large a tile is, is not there",
                str(path),
                "name its folder as patches=",
            )
        with open_hdf5(file_name) as file:
            if "coords" not in file or "patch_size" not in file["coords"].attrs:
                raise not_claimed(file_name, "CLAM's patches")
            tags, tiled = dict(file["coords"].attrs), dataset(file, "coords", file_name)
        if not np.array_equal(tiled, corners):
            raise UserError(
                f"the patches file has {len(tiled)} tiles that are not the {len(corners)} of the features: they belong "
                "to different runs",
                str(file_name),
            )
        # a tile is read at a level, so its side at level 0 follows that level's true downsample
        side = number(tags, "patch_size", file_name) * number(tags, "downsample", file_name)
        return side, number(tags, "mpp", file_name) if "mpp" in tags else None
