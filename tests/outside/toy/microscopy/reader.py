"""Plain pictures as rasters of known scale: the smallest reader that keeps the contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from core.raster.reader import ReadError
from core.types import SUPPLIED, Interpolation, Level, Pixels, Resolution, Window


class Picture:
    def __init__(self, path: Path, resolution: float | None) -> None:
        try:
            with Image.open(path) as image:
                self._pixels = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise ReadError(f"cannot read '{path}': {error}") from error
        height, width = self._pixels.shape[:2]
        self.path, self.size, self.levels = path, (width, height), (Level(width, height, 1.0),)
        self.resolution = Resolution(resolution or 1.0, resolution or 1.0, "um", SUPPLIED if resolution else "toy")
        self.metadata: dict[str, str] = {}

    def read(self, window: Window, out_size: tuple[int, int], interpolation: Interpolation = "bilinear") -> Pixels:
        box = (window.x, window.y, window.x + window.width, window.y + window.height)
        inside = Image.fromarray(np.full(self._pixels.shape[:2], 255, np.uint8))
        image = Image.fromarray(self._pixels).transform(
            out_size, Image.Transform.EXTENT, box, Image.Resampling[interpolation.upper()]
        )
        valid = inside.transform(out_size, Image.Transform.EXTENT, box, Image.Resampling.NEAREST)
        return Pixels(np.asarray(image), np.asarray(valid) > 0)

    def thumbnail(self, max_px: int) -> Pixels:
        width, height = self.size
        scale = max_px / max(width, height)
        return self.read(Window(0, 0, width, height), (max(1, round(width * scale)), max(1, round(height * scale))))

    def close(self) -> None:
        self._pixels = np.zeros((0, 0, 3), np.uint8)

    def __enter__(self) -> Picture:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PictureReader:
    unit = "um"

    def open(self, path: str | Path, resolution: float | None = None) -> Picture:
        return Picture(Path(path), resolution)
