"""What readers of foreign features share: which files, what a wrong folder looks like, and a checked bag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.mil.bags import Bag
from core.mil.features import open_hdf5
from core.types import UserError
from domains.pathology.readers.resolution import resolution_of

SPARSE = 1.5  # tiles of a grid touch: where no column is nearer to the next than this many sides, the unit is wrong
ENOUGH = 16  # tiles from which that can be said


def list_files(folder: Path, suffixes: tuple[str, ...], layout: str) -> dict[str, Path]:
    """Files directly in a folder by name without suffix, sorted; hidden ones (being written) are left out.

    Raises:
        UserError: no such folder, or no such file in it; the message says what the folder looks like instead.
    """
    if not folder.is_dir():
        raise UserError(f"'{folder}' is no folder", todo=f"give the folder that holds {layout}'s features")
    files = sorted(path for path in folder.iterdir() if path.suffix in suffixes and not path.name.startswith("."))
    if not files:
        raise not_claimed(folder, layout)
    return {path.name.removesuffix(path.suffix): path for path in files}


def one_below(folder: Path, patterns: tuple[str, ...], layout: str) -> Path:
    """The folder that holds the files: itself, or the only one below it that matches.

    Raises:
        UserError: several match.
    """
    if not folder.is_dir() or any(folder.glob("*.h5")):
        return folder
    below = sorted({path for pattern in patterns for path in folder.glob(pattern) if any(path.glob("*.h5"))})
    if len(below) > 1:
        names = ", ".join(path.relative_to(folder).as_posix() for path in below)
        raise UserError(f"'{folder}' holds {layout}'s features of several encoders: {names}", todo="give one of them")
    return below[0] if below else folder


def not_claimed(path: Path, layout: str) -> UserError:
    """The error for a file or folder that is not of the layout that was named."""
    found = looks_like(path)
    return UserError(
        f"'{path}' holds no features of {layout}: {found}",
        todo="choose the layout that it is (bag_layout=), or another folder",
    )


def looks_like(path: Path) -> str:
    """What a file or folder seems to be, in words."""
    if path.is_file():
        return _file_looks_like(path)
    inside = {entry.name for entry in path.iterdir()}
    for names, words in (
        ({"tile_embeddings"}, "it looks like an output folder of slide2vec"),
        ({"h5_files"}, "it looks like a feature folder of CLAM, whose files are in h5_files/"),
        ({"pt_files"}, "it looks like a feature folder of CLAM without h5_files/, and pt_files/ have no coordinates"),
    ):
        if names & inside:
            return words
    if any(name.startswith("features_") for name in inside):
        return "it looks like an output folder of TRIDENT, whose features are in features_<encoder>/"
    first = next(iter(sorted(path.glob("*.h5"))), None)
    if first is not None:
        return f"'{first.name}': {_file_looks_like(first)}"
    kinds = Counter(Path(name).suffix or "folder or file without suffix" for name in inside).most_common(4)
    return "it is empty" if not kinds else "it holds " + ", ".join(f"{count} {kind}" for kind, count in kinds)


def _file_looks_like(path: Path) -> str:
    if path.suffix != ".h5":
        return f"a file {path.suffix or 'without suffix'}"
    try:
        with open_hdf5(path) as file:
            return _looks_like(file)
    except UserError:
        return "no HDF5 file, or a damaged one"


def _looks_like(file: Any) -> str:
    names, tags = set(file), set(file["coords"].attrs) if "coords" in file else set()
    if "schema_version" in file.attrs:
        return "it was written by the verb 'embed'"
    if "feats" in names:
        return "it looks like STAMP's"
    if names >= {"features", "coords"}:
        return "it looks like TRIDENT's" if "patch_size_level0" in tags else "it looks like CLAM's"
    if "coords" in names:
        return f"it looks like {'CLAM' if 'patch_level' in tags else 'TRIDENT'}'s coordinates, without features"
    return f"its contents are {sorted(names)}"


def matrix(features: np.ndarray, path: Path) -> np.ndarray:
    """Features as [T, D] float16 or float32.

    Raises:
        UserError: another shape; one vector is an embedding of a whole slide.
    """
    if features.ndim == 1:
        raise UserError(
            f"features have shape {features.shape}: one vector for a whole slide, not one a tile", str(path)
        )
    if features.ndim != 2:
        raise UserError(f"features have shape {features.shape}; expected one row a tile", str(path))
    return features if features.dtype in (np.float16, np.float32) else features.astype(np.float32)


def microns(path: Path, given: float | None, why_missing: str) -> float:
    """Microns per level-0 pixel from the manifest.

    Raises:
        UserError: not given, or no number that a microscope could have.
    """
    if given is None:
        raise UserError(why_missing, str(path), "give it in a manifest column mpp")
    return resolution_of({}, given).x  # type: ignore[union-attr]  # one that is given is taken or refused


def number(tags: Mapping[str, Any], name: str, path: Path) -> float:
    """An attribute that is a number, or one number for each axis, of which it is the mean.

    Raises:
        UserError: the file has no such attribute, or it is no number; both are named.
    """
    if name not in tags:
        raise UserError(f"the file has no attribute '{name}', only {sorted(tags)}", str(path))
    try:
        return float(np.mean(np.asarray(tags[name], np.float64)))
    except (TypeError, ValueError) as error:
        raise UserError(f"the attribute '{name}' is '{tags[name]}', no number", str(path)) from error


def places(coordinates: np.ndarray, path: Path) -> np.ndarray:
    """Coordinates in the unit they are in, [T, 2] float64.

    Raises:
        UserError: another shape.
    """
    if coordinates.ndim != 2 or coordinates.shape[1] != 2:
        raise UserError(f"coordinates have shape {coordinates.shape}; expected [T, 2]", str(path))
    return coordinates.astype(np.float64)


def pixels(coordinates: np.ndarray, path: Path, layout: str) -> np.ndarray:
    """Level-0 pixels, [T, 2] float64.

    Raises:
        UserError: they are no whole numbers, so they are in another unit.
    """
    corners = places(coordinates, path)
    if not np.array_equal(corners, np.round(corners)):
        raise UserError(f"coordinates are no whole numbers, and {layout}'s are level-0 pixels", str(path),
                        "perhaps they are in microns")  # fmt: skip
    return corners


def make_bag(id: str, path: Path, features: np.ndarray, corners_um: np.ndarray, tile_um: float, encoder: str) -> Bag:
    """A bag in microns, after a look at whether its coordinates can be what they are said to be.

    Raises:
        UserError: features and coordinates are not as many, tiles lie too far apart, or the bag is no valid one.
    """
    rows = matrix(features, path)
    if len(rows) != len(corners_um):
        raise UserError(f"there are {len(rows)} features and {len(corners_um)} coordinates", str(path))
    gaps = [np.diff(np.unique(axis.round(3))) for axis in np.asarray(corners_um, np.float64).T]
    nearest = min((float(gap.min()) for gap in gaps if len(gap)), default=0.0)
    if len(rows) >= ENOUGH and nearest > SPARSE * tile_um:
        raise UserError(
            f"no tile is nearer to the next than {nearest:.4g} um and a tile is {tile_um:.4g} um wide: the coordinates "
            "are in another unit than they should be",
            str(path),
        )
    return Bag(id, rows, np.asarray(corners_um, np.float32), float(tile_um), "um", encoder)
