"""A raster that is one picture in memory: photographs, tiles, whatever a library decodes whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from core.raster.pyramid import PyramidRaster, Region
from core.types import Level, NoResolution, Resolution


class ArrayRaster(PyramidRaster):
    """One level, decoded on the first read and again in each process it is sent to.

    Args:
        path: the file.
        size: (width, height), known without decoding.
        load: decodes the file to uint8 [H, W, 3]; picklable; raises ReadError.
        resolution: of a pixel.
        metadata: what the file says of itself.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        load: Callable[[Path], np.ndarray],
        resolution: Resolution | NoResolution,
        metadata: dict[str, str] | None = None,
    ) -> None:
        self.path, self.size, self.resolution = path, size, resolution
        self.metadata = metadata or {}
        self.levels = (Level(size[0], size[1], 1.0),)
        self._load = load
        self._image: Image.Image | None = None

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Region:
        if self._image is None:
            self._image = Image.fromarray(self._load(self.path))
        if (x, y, width, height) == (0, 0, *self.size):
            return Region(self._image)
        return Region(self._image.crop((x, y, x + width, y + height)))

    def close(self) -> None:
        self._image = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_image": None}
