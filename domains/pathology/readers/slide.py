"""Whole slides of every format OpenSlide reads, DICOM included.

OpenSlide latches its first error: after one broken tile every further call on the same object fails. A failed read
therefore costs that object, never the slide: the region is read again piece by piece from fresh objects, a piece that
is corrupt at one level is taken from a finer one, and what cannot be read anywhere is named. Label, macro and other
associated images are never touched, so they cannot reach an output.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from core.raster.pyramid import BLOCK_PX, PyramidRaster, Region
from core.raster.reader import ReadError
from core.types import Level, Window
from domains.pathology.readers.resolution import resolution_of


class SlideRaster(PyramidRaster):
    """An OpenSlide slide, opened lazily in each process and shared by its threads."""

    def __init__(self, path: Path, resolution: float | None = None) -> None:
        self.path = path
        self._handle: openslide.OpenSlide | None = None
        self._process = 0
        self._lock = threading.Lock()
        self._unreadable: dict[Window, str] = {}
        slide = self._open()
        self.metadata = dict(slide.properties)
        self.size = slide.dimensions
        self.levels = tuple(
            Level(width, height, float(factor))
            for (width, height), factor in zip(slide.level_dimensions, slide.level_downsamples, strict=True)
        )
        self.resolution = resolution_of(self.metadata, resolution)
        colour = self.metadata.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
        self.background = int(colour[0:2], 16), int(colour[2:4], 16), int(colour[4:6], 16)

    @property
    def unreadable(self) -> tuple[Window, ...]:
        return tuple(self._unreadable)

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Region:
        slide = self._open()
        try:
            return self._flatten(_fetch(slide, self.levels, level, x, y, width, height))
        except openslide.OpenSlideError:
            with self._lock:  # other threads may be reading from the latched object: they land here too
                if self._handle is slide:
                    self._handle = None
        return self._salvage(level, x, y, width, height)

    def close(self) -> None:
        with self._lock:
            if self._handle is not None and self._process == os.getpid():
                self._handle.close()
            self._handle = None

    def _open(self) -> openslide.OpenSlide:
        handle = self._handle
        if handle is not None and self._process == os.getpid():
            return handle
        with self._lock:
            if self._handle is None or self._process != os.getpid():  # a fork shares file offsets: open our own
                self._handle, self._process = _open_slide(self.path), os.getpid()
            return self._handle

    def _flatten(self, image: Image.Image) -> Region:
        """RGBA to RGB on the background; alpha is 0 where the scanner has no data."""
        alpha = np.frombuffer(image.tobytes("raw", "A"), np.uint8)
        if alpha.min() == 255:
            return Region(image)
        flat = Image.new("RGB", image.size, self.background)
        flat.paste(image, mask=image.getchannel("A"))
        return Region(flat, alpha.reshape(image.height, image.width) > 0)

    def _salvage(self, level: int, x: int, y: int, width: int, height: int) -> Region:
        """The same region piece by piece, each piece from the given level or a finer one, on objects of our own."""
        private = _Private(self.path)
        image = Image.new("RGB", (width, height), self.background)
        valid = np.ones((height, width), np.bool_)
        lost: list[Window] = []
        error = ""
        for tile, (left, top, right, bottom) in self._pieces(level, x, y, width, height):
            piece, message = self._piece(private, level, left, top, right - left, bottom - top)
            there = slice(top - y, bottom - y), slice(left - x, right - x)
            if piece is None:
                error = error or message
                valid[there] = False
                lost.append(tile)
                continue
            image.paste(piece.image, (left - x, top - y))
            if piece.valid is not None:
                valid[there] = piece.valid
        private.close()
        with self._lock:
            self._unreadable.update(dict.fromkeys(lost, error))
        return Region(image, None if valid.all() else valid, tuple(lost), error)

    def _pieces(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> Iterator[tuple[Window, tuple[int, int, int, int]]]:
        """The region cut along the file's own tiles, so that a broken one takes nothing else with it.

        Yields each of the file's tiles (level-0 pixels) with the part of it in the region (pixels of the level).
        """
        tile_x = int(self.metadata.get(f"openslide.level[{level}].tile-width", 256))
        tile_y = int(self.metadata.get(f"openslide.level[{level}].tile-height", 256))
        factor_x, factor_y = self.size[0] / self.levels[level].width, self.size[1] / self.levels[level].height
        for row in range(y // tile_y, math.ceil((y + height) / tile_y)):
            for column in range(x // tile_x, math.ceil((x + width) / tile_x)):
                left, top = column * tile_x, row * tile_y
                tile = Window(left * factor_x, top * factor_y, tile_x * factor_x, tile_y * factor_y)
                yield tile, (max(left, x), max(top, y), min(left + tile_x, x + width), min(top + tile_y, y + height))

    def _piece(
        self, private: _Private, level: int, x: int, y: int, width: int, height: int
    ) -> tuple[Region | None, str]:
        message = ""
        for finer in range(level, -1, -1):
            fx = self.levels[finer].width / self.levels[level].width
            fy = self.levels[finer].height / self.levels[level].height
            left, top = math.floor(x * fx), math.floor(y * fy)
            across = min(math.ceil((x + width) * fx), self.levels[finer].width) - left
            down = min(math.ceil((y + height) * fy), self.levels[finer].height) - top
            if max(across, down) > 4 * BLOCK_PX:  # a corner of a coarse level is gigapixels of the finest
                break
            try:
                read = _fetch(private.slide(), self.levels, finer, left, top, across, down)
            except openslide.OpenSlideError as failure:
                message = message or str(failure)
                private.close()
                continue
            region = self._flatten(read)
            if finer == level:
                return region, ""
            valid = region.valid
            if valid is not None:
                valid = np.asarray(Image.fromarray(valid).resize((width, height), Image.Resampling.NEAREST))
            return Region(region.image.resize((width, height), Image.Resampling.BOX), valid), ""
        return None, message

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_handle": None, "_lock": None, "_process": 0}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


class _Private:
    """An OpenSlide object that one salvage has for itself and opens again after each failure."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._slide: openslide.OpenSlide | None = None

    def slide(self) -> openslide.OpenSlide:
        if self._slide is None:
            self._slide = _open_slide(self._path)
        return self._slide

    def close(self) -> None:
        if self._slide is not None:
            self._slide.close()
        self._slide = None


def _fetch(
    slide: openslide.OpenSlide, levels: tuple[Level, ...], level: int, x: int, y: int, width: int, height: int
) -> Image.Image:
    """``read_region`` counts the location in level-0 pixels whatever the level, and the size in pixels of the level."""
    factor_x, factor_y = levels[0].width / levels[level].width, levels[0].height / levels[level].height
    return slide.read_region((round(x * factor_x), round(y * factor_y)), level, (width, height))


def _open_slide(path: Path) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise ReadError(f"cannot be opened: {error}", str(path)) from error
