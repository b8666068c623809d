"""Rasters made in a test: a picture in memory with any number of levels, and tiled TIFF pyramids on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from core.raster.array import ArrayRaster
from core.raster.pyramid import PyramidRaster, Region
from core.types import Level, NoResolution, Resolution

HALF_MICRON = Resolution(0.5, 0.5, "um", "test")


class MemoryRaster(PyramidRaster):
    """A pyramid in memory whose levels may have any size; counts what is fetched from which level."""

    def __init__(self, levels: list[np.ndarray], resolution: Resolution | NoResolution = HALF_MICRON) -> None:
        self.path = Path("memory")
        self.images = levels
        self.size = (levels[0].shape[1], levels[0].shape[0])
        self.levels = tuple(Level(p.shape[1], p.shape[0], levels[0].shape[1] / p.shape[1]) for p in levels)
        self.resolution = resolution
        self.metadata: dict[str, str] = {}
        self.fetched: list[tuple[int, int, int, int, int]] = []

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Region:
        self.fetched.append((level, x, y, width, height))
        assert x >= 0
        assert y >= 0
        assert x + width <= self.levels[level].width
        assert y + height <= self.levels[level].height
        return Region(Image.fromarray(np.ascontiguousarray(self.images[level][y : y + height, x : x + width])))

    def close(self) -> None:
        """Nothing is open."""


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3], stained-looking: smooth enough to be resampled, never grey."""
    rng = np.random.default_rng(seed)
    small = rng.integers(90, 200, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    picture = np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
    picture[..., 1] //= 2
    return picture


def shrink(picture: np.ndarray, factor: int) -> np.ndarray:
    """The picture with sides divided by ``factor`` (rounded down), by area means."""
    size = (picture.shape[1] // factor, picture.shape[0] // factor)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def write_slide(
    path: Path, levels: list[np.ndarray], mpp: float | None, power: float | None = 20, **tiff: object
) -> Path:
    """A tiled pyramid that OpenSlide takes for an Aperio slide."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = ["Aperio Image Library (test)"]
    if power is not None:
        words.append(f"AppMag = {power:g}")
    if mpp is not None:
        words.append(f"MPP = {mpp}")
    options: dict[str, object] = {"compression": "jpeg", "compressionargs": {"level": 95}, **tiff}
    with tifffile.TiffWriter(path) as writer:
        for number, level in enumerate(levels):
            writer.write(
                level,
                tile=(256, 256),
                photometric="rgb",
                description="|".join(words),
                metadata=None,
                subfiletype=1 if number else 0,
                **options,
            )
            if number == 0:  # Aperio's second directory is its own thumbnail
                thumbnail = shrink(level, max(2, max(level.shape) // 64))
                writer.write(thumbnail, photometric="rgb", description=words[0], metadata=None)
    return path


def break_tile(path: Path, page: int, tile: int) -> None:
    """Zeroes the bytes of one tile."""
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[page].dataoffsets[tile], tiff.pages[page].databytecounts[tile]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\0" * count)


def picture_raster(picture: np.ndarray, resolution: Resolution | NoResolution) -> ArrayRaster:
    return ArrayRaster(Path("picture"), (picture.shape[1], picture.shape[0]), lambda path: picture, resolution)
