"""TRIDENT's features: ``features_<encoder>/<id>.h5``, coordinates in level-0 pixels with the side of a tile.

TRIDENT sorts slides into magnifications (its 20x is anything from 0.3 to 0.6 microns per pixel) and keeps only those.
Microns per pixel therefore have to come from the manifest; they are held against the magnification.
"""

from __future__ import annotations

from pathlib import Path

from core.mil.bags import Bag
from core.mil.features import dataset, open_hdf5
from core.types import NoResolution, UserError
from domains.pathology.features.common import list_files, make_bag, microns, not_claimed, number, one_below, pixels
from domains.pathology.readers.resolution import resolution_of


class TridentFeatures:
    """Reads TRIDENT's layout; see :class:`core.mil.features.FeatureLayout`."""

    def find(self, folder: Path) -> dict[str, Path]:
        """Takes ``features_<encoder>/``, or a folder above it that holds no second encoder."""
        folder = one_below(Path(folder), ("features_*", "*_overlap/features_*"), "TRIDENT")
        return list_files(folder, (".h5",), "TRIDENT")

    def read(self, path: Path, id: str, resolution: float | None = None) -> Bag:
        path = Path(path)
        with open_hdf5(path) as file:
            tags = dict(file["coords"].attrs) if "coords" in file else {}
            if "features" not in file or "patch_size_level0" not in tags:
                raise not_claimed(path, "TRIDENT")
            features, coordinates = dataset(file, "features", path), dataset(file, "coords", path)
            encoder = file["features"].attrs.get("encoder", "None")
        corners = pixels(coordinates, path, "TRIDENT")
        why = "TRIDENT writes a magnification and no microns per pixel"
        mpp = microns(path, resolution, why)
        _hold_against(tags, mpp, path)
        for axis, name in enumerate(("level0_width", "level0_height")):
            if name in tags and len(corners) and corners[:, axis].max() >= number(tags, name, path):
                raise UserError(f"tiles lie outside of the slide, whose {name} is {tags[name]}", str(path),
                                "the coordinates are those of another slide, or in another unit")  # fmt: skip
        tile_um = number(tags, "patch_size_level0", path) * mpp
        name = encoder if encoder != "None" else path.parent.name.removeprefix("features_")  # None is stored as a word
        return make_bag(id, path, features, corners * mpp, tile_um, str(name))


def _hold_against(tags: dict[str, object], mpp: float, path: Path) -> None:
    power = str(tags.get("level0_magnification", "None"))
    found = resolution_of({"openslide.mpp-x": str(mpp), "openslide.objective-power": power})
    if isinstance(found, NoResolution):
        raise UserError(f"the manifest says {mpp} microns per pixel and TRIDENT says {power}x", str(path),
                        "correct the manifest column mpp")  # fmt: skip
