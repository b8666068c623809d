"""Features of one slide (scene, volume ...) on disk: TRIDENT's HDF5 layout with what TRIDENT leaves out.

=================  ===================================================================================================
``features``       [T, D] float16, one row a tile, in chunks of about a mebibyte
``coords``         [T, 2] int64, top left corners (x, y) in level-0 pixels
``failed_coords``  [F, 2] int64, tiles that could not be read; no row of ``features`` is theirs
attributes         the fields of :class:`FeatureAttributes`, and ``schema_version``
=================  ===================================================================================================

Tools that read TRIDENT's files find its attributes on ``coords`` and ``features`` as well. One format is the source of
truth in every domain; physical units appear only when a :class:`Bag` is read. Foreign layouts live in their domain
behind :class:`FeatureLayout`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from core.files import atomic_write
from core.mil.bags import Bag
from core.types import Unit, UserError

SCHEMA_VERSION = 1
SUFFIX = ".h5"
OTHER_LAYOUT = "choose its layout: bag_layout=trident (or clam, stamp, slide2vec)"
DAMAGE = (OSError, LookupError, RuntimeError, ValueError, TypeError)  # what h5py says of structure that is not sound
KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "Unit": (str,), "int": (int,), "float": (int, float)}
CHUNK_BYTES = 1 << 20  # TRIDENT and CLAM chunk one row at a time, which is slow to read and large on disk


@dataclass(frozen=True)
class FeatureAttributes:
    """What must be known of features before anything may be done with them."""

    name: str  # of the slide, as inputs are named: relative, with forward slashes
    encoder: str  # name@hash: equal exactly where the same pixels give the same features
    weights_sha256: str  # of the weights file
    space: str  # "projected": unit vectors in the space of texts; "pooled": of the backbone
    precision: str  # the encoder worked in: float32, bfloat16, float16
    resolution_x: float  # physical size of a level-0 pixel
    resolution_y: float
    resolution_source: str  # where it was read
    unit: Unit
    width: int  # of level 0
    height: int
    tile_px: int  # side of a tile as the encoder sees it
    tile_resolution: float  # physical size of a pixel of it
    overlap: float  # share of its side that a tile has in common with the next
    min_coverage: float  # share of a tile that is content
    grid_tiles: int  # with and without content
    slide_bytes: int  # size of the slide's file: another one is another slide
    error: str = ""  # of the first tile that could not be read
    note: str = ""  # why there is no tile
    sharing: str = "open"  # or restricted: whoever reads the file shows neither pictures nor names of the slide

    @property
    def tile_size(self) -> float:
        """Side of a tile in ``unit``."""
        return self.tile_px * self.tile_resolution


@dataclass(frozen=True)
class Header:
    """A file without its features."""

    attributes: FeatureAttributes
    tiles: int
    failed: np.ndarray  # [F, 2] int64


class DamagedFile(UserError):
    """A file that is not whole: written by something that stopped, or changed on the disk. Making it anew cures it."""


class FeatureLayout(Protocol):
    """A way features lie on disk. One file is one bag."""

    def find(self, folder: Path) -> dict[str, Path]:
        """Bags below a folder by id, sorted.

        Raises:
            UserError: the folder is not what it claims to be; the message says what it looks like.
        """

    def read(self, path: Path, id: str, resolution: float | None = None) -> Bag:
        """Reads one bag; ``resolution`` (unit per level-0 pixel) is the manifest's, for files that do not say it.

        Raises:
            UserError: the file is damaged or says too little; nothing is guessed.
        """


class EmbeddedFeatures:
    """What the verb `embed` wrote: ``<folder>/<name of the slide>.h5``."""

    def find(self, folder: Path) -> dict[str, Path]:
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"'{folder}' is no folder", todo="give the folder that embed wrote features into")
        files = sorted(path for path in folder.rglob(f"*{SUFFIX}") if not path.name.startswith("."))  # being written
        if not files:
            raise UserError(
                f"'{folder}' holds no feature files (*{SUFFIX})", todo="give the folder that embed wrote into"
            )
        if not any(map(_may_be_ours, files)):
            raise UserError(f"'{folder}' holds {len(files)} HDF5 files, none of which 'embed' wrote", todo=OTHER_LAYOUT)
        return {path.relative_to(folder).as_posix().removesuffix(SUFFIX): path for path in files}

    def read(self, path: Path, id: str, resolution: float | None = None) -> Bag:
        return read_bag(path)


def _may_be_ours(path: Path) -> bool:
    """Whether `embed` wrote a file; one that is damaged may be, and whoever reads it is told."""
    try:
        with open_hdf5(path) as file:
            return "schema_version" in file.attrs
    except DamagedFile:
        return True


def write_features(
    path: str | Path,
    coordinates_level0: np.ndarray,
    features: np.ndarray,
    attributes: FeatureAttributes,
    failed: np.ndarray | None = None,
) -> None:
    """Writes one file, whole or not at all.

    Args:
        path: of the file; replaced when it is there.
        coordinates_level0: [T, 2] int64, corners in level-0 pixels.
        features: [T, D] float16.
        attributes: of the file.
        failed: [F, 2] int64, corners of tiles that could not be read.

    Raises:
        UserError: features are not finite (beyond 65,504 float16 is infinite), or the file cannot be written.
    """
    import h5py

    _check_shapes(coordinates_level0, features)
    _check_finite(features, attributes.name)
    failed = np.zeros((0, 2), np.int64) if failed is None else failed
    side = round(attributes.tile_size / attributes.resolution_x)
    trident = {
        "name": attributes.name, "patch_size": attributes.tile_px, "patch_size_level0": side,
        "overlap": round(attributes.overlap * attributes.tile_px), "level0_width": attributes.width,
        "level0_height": attributes.height,
    }  # fmt: skip
    count, width = features.shape
    rows = max(1, min(count, CHUNK_BYTES // (2 * width)))
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({**asdict(attributes), "schema_version": SCHEMA_VERSION})
        data = file.create_dataset(
            "features", data=features.astype(np.float16), chunks=(rows, width), maxshape=(None, width)
        )
        data.attrs.update({"encoder": attributes.encoder, "name": attributes.name})
        file.create_dataset("coords", data=coordinates_level0.astype(np.int64)).attrs.update(trident)
        file.create_dataset("failed_coords", data=failed.astype(np.int64))


def read_header(path: str | Path) -> Header:
    """What a file says of itself.

    Raises:
        DamagedFile: it is not whole.
        UserError: missing, of another layout, or written by a newer version.
    """
    with open_hdf5(path) as file:
        attributes = _attributes(file, path)
        failed = dataset(file, "failed_coords", path)
        if failed.ndim != 2 or failed.shape[1] != 2:
            raise DamagedFile(f"'failed_coords' has shape {failed.shape}; expected [F, 2]", str(path), "make it anew")
        return Header(attributes, len(file["features"]), failed)


def read_bag(path: str | Path) -> Bag:
    """One file as a bag in physical units.

    Raises:
        UserError: as for :func:`read_header`; there is no tile; features are not finite (which :class:`Bag` refuses).
    """
    with open_hdf5(path) as file:
        attributes = _attributes(file, path)
        features, coords = dataset(file, "features", path), dataset(file, "coords", path)
    _check_shapes(coords, features)
    if not len(features):
        raise UserError(f"slide '{attributes.name}' has no tile: {attributes.note}", str(path), "leave it out")
    size = np.array([attributes.resolution_x, attributes.resolution_y])
    return Bag(
        attributes.name,
        features,
        (coords * size).astype(np.float32),
        attributes.tile_size,
        attributes.unit,
        attributes.encoder,
    )


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[Any]:
    """An open HDF5 file. A block under it only reads the file: what h5py raises there is the file's damage.

    Raises:
        DamagedFile: it is no (whole) HDF5 file, here or wherever it is looked at in the block.
        UserError: it is not there.
    """
    import h5py

    if not Path(path).is_file():
        raise UserError(f"feature file '{path}' does not exist")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DAMAGE as error:
        raise DamagedFile(f"'{path}' is damaged, or no HDF5 file: {error}", todo="make it anew") from error


def dataset(file: Any, name: str, path: str | Path) -> np.ndarray:
    """One dataset as an array.

    Raises:
        UserError: it is not there, or cannot be read.
    """
    if name not in file:
        raise DamagedFile(f"feature file has no '{name}', only {sorted(file)}", str(path))
    try:
        values = np.asarray(file[name][()])
    except DAMAGE as error:
        raise DamagedFile(f"'{name}' of a feature file is damaged: {error}", str(path), "make it anew") from error
    if values.dtype.kind not in "iuf":
        raise DamagedFile(f"'{name}' of a feature file holds {values.dtype}, no numbers", str(path), "make it anew")
    return values


def _attributes(file: Any, path: str | Path) -> FeatureAttributes:
    version = file.attrs.get("schema_version")
    if version is None:
        raise UserError(
            "feature file has no schema_version: it was not written by 'embed'",
            str(path),
            OTHER_LAYOUT,
        )
    if version > SCHEMA_VERSION:
        raise UserError(f"feature file has schema version {version}, newer than {SCHEMA_VERSION}", str(path),
                        "update trivium")  # fmt: skip
    known = {field.name: str(field.type) for field in fields(FeatureAttributes)}
    missing = sorted(set(known) - set(file.attrs) - {"sharing"})  # older files have none
    if missing:
        raise DamagedFile(f"feature file lacks the attributes {missing}", str(path), "make it anew")
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()}
    wrong = sorted(key for key, kind in known.items() if key in plain and not isinstance(plain[key], KINDS[kind]))
    if wrong:
        raise DamagedFile(f"feature file has attributes of a wrong type: {wrong}", str(path), "make it anew")
    return FeatureAttributes(**{key: value for key, value in plain.items() if key in known})


def _check_shapes(coords: np.ndarray, features: np.ndarray) -> None:
    if features.ndim != 2 or coords.shape != (len(features), 2):
        raise UserError(f"features have shape {features.shape} and coordinates {coords.shape}; expected [T, D], [T, 2]")


def _check_finite(features: np.ndarray, where: str) -> None:
    bad = ~np.isfinite(features).all(1)
    if bad.any():
        raise UserError(f"features of {int(bad.sum())} of {len(features)} tiles are not finite", where)
