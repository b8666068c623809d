"""Reading a window at any scale from a pyramid: the level, the blocks, the resampling. Formats only fetch regions."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

from core.raster.reader import ReadError
from core.types import Interpolation, Level, NoResolution, Pixels, Resolution, Window

BLOCK_PX = 2048  # largest side of one fetch: bounds memory, and stays below sizes at which drawing libraries fail
LEVEL_SLACK = 1.01  # a level of downsample 4.0004 serves a wish for 4
TOLERATED_LOSS = 0.01  # unreadable share of a window that is masked rather than raised
# Pillow's filters widen with the scale, so both are antialiased; and how far they reach, in pixels of the coarser side
FILTERS = {"bilinear": (Image.Resampling.BILINEAR, 1.0), "bicubic": (Image.Resampling.BICUBIC, 2.0)}


@dataclass(frozen=True)
class Region:
    """Pixels fetched from one level."""

    image: Image.Image  # RGB, or RGBA without transparency
    valid: np.ndarray | None = None  # [H, W] bool; None: all valid
    lost: tuple[Window, ...] = ()  # level-0 windows of it that could not be read
    error: str = ""  # why


def choose_level(levels: tuple[Level, ...], downsample: float) -> int:
    """Index of the coarsest level that is at least as fine as ``downsample``, or 0."""
    fit = [index for index, level in enumerate(levels) if level.downsample <= downsample * LEVEL_SLACK]
    return fit[-1] if fit else 0


def overlap_area(a: Window, b: Window) -> float:
    """Area shared by two windows, in level-0 pixels."""
    width = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    height = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    return max(width, 0.0) * max(height, 0.0)


class PyramidRaster(ABC):
    """A raster that only has to know how to fetch a rectangle of one level."""

    path: Path
    size: tuple[int, int]
    levels: tuple[Level, ...]
    resolution: Resolution | NoResolution
    metadata: dict[str, str]
    background: tuple[int, int, int] = (255, 255, 255)  # shown where there is no data

    @abstractmethod
    def region(self, level: int, x: int, y: int, width: int, height: int) -> Region:
        """Fetches a rectangle that lies within a level, in pixels of that level."""

    @abstractmethod
    def close(self) -> None:
        """Gives the file handle back; a later read opens it again."""

    @property
    def unreadable(self) -> tuple[Window, ...]:
        return ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, window: Window, out_size: tuple[int, int], interpolation: Interpolation = "bilinear") -> Pixels:
        return self._read(window, out_size, TOLERATED_LOSS, interpolation)

    def thumbnail(self, max_px: int) -> Pixels:
        width, height = self.size
        scale = min(1.0, max_px / max(width, height))
        out_size = max(1, round(width * scale)), max(1, round(height * scale))
        return self._read(Window(0, 0, width, height), out_size, 0.999)

    def _read(
        self,
        window: Window,
        out_size: tuple[int, int],
        tolerated: float,
        interpolation: Interpolation = "bilinear",
    ) -> Pixels:
        columns, rows = out_size
        if not (window.width > 0 and window.height > 0 and columns > 0 and rows > 0):
            raise ValueError(f"an empty window {window} or output {out_size}")
        number = choose_level(self.levels, min(window.width / columns, window.height / rows))
        downsample = self.levels[number].downsample
        across = math.ceil(window.width / downsample / BLOCK_PX)
        down = math.ceil(window.height / downsample / BLOCK_PX)
        across, down = min(across, columns), min(down, rows)
        if across == down == 1:
            region = self._part(number, window, out_size, interpolation)
            self._refuse_loss([region], window, tolerated)
            valid = np.ones((rows, columns), np.bool_) if region.valid is None else region.valid
            return Pixels(_array(region.image), valid)
        values = np.empty((rows, columns, 3), np.uint8)
        valid = np.ones((rows, columns), np.bool_)
        regions = []
        for top, bottom in _spans(rows, down):
            for left, right in _spans(columns, across):
                part = Window(
                    window.x + window.width * left / columns,
                    window.y + window.height * top / rows,
                    window.width * (right - left) / columns,
                    window.height * (bottom - top) / rows,
                )
                region = self._part(number, part, (right - left, bottom - top), interpolation)
                values[top:bottom, left:right] = _array(region.image)
                if region.valid is not None:
                    valid[top:bottom, left:right] = region.valid
                regions.append(region)
        self._refuse_loss(regions, window, tolerated)
        return Pixels(values, valid)

    def _refuse_loss(self, regions: list[Region], window: Window, tolerated: float) -> None:
        lost = {piece for region in regions for piece in region.lost}
        if not lost:
            return
        inside = overlap_area(window, Window(0, 0, *self.size))
        share = sum(overlap_area(piece, window) for piece in lost) / inside
        if share > tolerated:
            reason = next(region.error for region in regions if region.error)
            place = f"x {window.x:.0f}, y {window.y:.0f}, {window.width:.0f} x {window.height:.0f}"
            raise ReadError(f"a window ({place}) cannot be read: {reason}", str(self.path))

    def _part(self, number: int, window: Window, out_size: tuple[int, int], interpolation: Interpolation) -> Region:
        """Reads one block: fetches the integer rectangle around it and resamples the exact fractional box."""
        level = self.levels[number]
        # both axes by their own factor: level sizes are rounded, so the factors differ a little
        fx, fy = level.width / self.size[0], level.height / self.size[1]
        left, top = window.x * fx, window.y * fy
        right, bottom = left + window.width * fx, top + window.height * fy
        resampling, reach = FILTERS[interpolation]
        sx, sy = (right - left) / out_size[0], (bottom - top) / out_size[1]
        copied = abs(sx - 1) < 1e-4 and abs(sy - 1) < 1e-4 and _whole(left) and _whole(top)
        if copied:
            x0, y0 = round(left), round(top)
            x1, y1 = x0 + out_size[0], y0 + out_size[1]
        else:  # a margin for the filter, so that neighbouring blocks meet without a seam
            mx, my = math.ceil(reach * max(sx, 1.0)) + 1, math.ceil(reach * max(sy, 1.0)) + 1
            x0, y0 = math.floor(left) - mx, math.floor(top) - my
            x1, y1 = math.ceil(right) + mx, math.ceil(bottom) + my
        inner = max(x0, 0), max(y0, 0), min(x1, level.width), min(y1, level.height)
        width, height = inner[2] - inner[0], inner[3] - inner[1]
        if width <= 0 or height <= 0:
            return Region(Image.new("RGB", out_size, self.background), np.zeros(out_size[::-1], np.bool_))
        region = self.region(number, inner[0], inner[1], width, height)
        if copied and inner == (x0, y0, x1, y1):
            return region
        reaches_out = left < -1e-6 or top < -1e-6 or right > level.width + 1e-6 or bottom > level.height + 1e-6
        if copied:
            return self._pad(region, (x0, y0, x1, y1), inner)
        if reaches_out:  # background only where the window itself is outside, none in the filter's margin
            outer = (
                x0 if left < 0 else inner[0],
                y0 if top < 0 else inner[1],
                x1 if right > level.width else inner[2],
                y1 if bottom > level.height else inner[3],
            )
            region = self._pad(region, outer, inner)
            x0, y0 = outer[:2]
        else:
            x0, y0 = inner[:2]
        box = (
            max(left - x0, 0.0),
            max(top - y0, 0.0),
            min(right - x0, float(region.image.width)),
            min(bottom - y0, float(region.image.height)),
        )
        image = region.image.convert("RGB").resize(out_size, resampling, box=box)
        valid = region.valid
        if valid is not None:
            valid = np.asarray(Image.fromarray(valid).resize(out_size, Image.Resampling.NEAREST, box=box))
        return Region(image, valid, region.lost, region.error)

    def _pad(self, region: Region, outer: tuple[int, int, int, int], inner: tuple[int, int, int, int]) -> Region:
        size = outer[2] - outer[0], outer[3] - outer[1]
        x, y = inner[0] - outer[0], inner[1] - outer[1]
        image = Image.new("RGB", size, self.background)
        image.paste(region.image, (x, y))
        valid = np.zeros(size[::-1], np.bool_)
        there = valid[y : y + region.image.height, x : x + region.image.width]
        there[...] = True if region.valid is None else region.valid
        return Region(image, valid, region.lost, region.error)


def _array(image: Image.Image) -> np.ndarray:
    """uint8 [H, W, 3]; packed straight from the image's memory, three times as fast as converting it first."""
    return np.frombuffer(image.tobytes("raw", "RGB"), np.uint8).reshape(image.height, image.width, 3)


def _whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-3


def _spans(length: int, parts: int) -> list[tuple[int, int]]:
    edges = [round(length * part / parts) for part in range(parts + 1)]
    return list(itertools.pairwise(edges))
