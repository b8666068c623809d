"""Which tiles hold content, decided on a thumbnail; and whether a slide is a brightfield image at all.

Classical on purpose: it needs no weights, takes milliseconds, and its limits are known (very pale stains, pen marks).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from core.raster.grid import TileGrid
from core.raster.reader import NamesUnreadable, Raster
from core.types import Pixels, UserError, Window

COLOUR = 15  # max - min channel above which a pixel is stained; JPEG noise on empty glass stays below
BLACK = 32  # brightest channel below which a hue is noise: borders, dust
DARK = 64  # brightest channel of a pixel called dark (the measure of the data's own facts)
LIGHT = 150  # darkest channel of a pixel through which light comes
PX_PER_TILE = 16  # thumbnail pixels along a tile, so a fraction is known to 1/256
MAX_PX, MIN_PX = 4096, 256


class NotBrightfield(UserError):
    """Bright signal on black: light was emitted, not transmitted."""


@dataclass(frozen=True)
class Coverage:
    """How much of each cell of a grid holds content."""

    fraction: np.ndarray  # [N] float64 in [0, 1], of the whole cell: what lies outside of the raster is no content
    reason: tuple[str, ...]  # [N] why a cell is not kept: "outside", "dark", "background"; empty when kept
    thumbnail: Pixels  # what it was decided on
    mask: np.ndarray  # [h, w] bool, content on the thumbnail

    @property
    def kept(self) -> np.ndarray:
        """[K] int64 numbers of the cells that are kept, ascending."""
        return np.flatnonzero([not reason for reason in self.reason])


def tissue_mask(pixels: Pixels) -> np.ndarray:
    """Content of a brightfield thumbnail: what is stained, relative to the colour of the empty glass.

    Black borders, grey dust and glass have no hue, so one threshold on ``max - min`` leaves all three out, and a slide
    that is almost empty stays almost empty (a threshold chosen from the histogram, such as Otsu's, would not).

    Args:
        pixels: uint8 [h, w, 3] with its validity.

    Returns:
        [h, w] bool.
    """
    blurred = Image.fromarray(pixels.values).filter(ImageFilter.BoxBlur(1))
    values = np.asarray(blurred).astype(np.float32) * (255.0 / glass_colour(pixels))
    values = np.minimum(values, 255.0)
    highest, lowest = values.max(-1), values.min(-1)
    return np.asarray((highest - lowest >= COLOUR) & (highest >= BLACK) & pixels.valid)


def glass_colour(pixels: Pixels) -> np.ndarray:
    """[3] float32: mean of the lightest 2 % of valid pixels where that is nearly white, else white.

    A yellowish lamp makes a yellowish glass; without this all of it would count as stained.
    """
    values = pixels.values[pixels.valid]
    white = np.full(3, 255.0, np.float32)
    if not len(values):
        return white
    lowest = values.min(-1)
    glass = values[lowest >= np.quantile(lowest, 0.98)].mean(0, dtype=np.float64).astype(np.float32)
    return glass if glass.min() >= 190 and glass.max() - glass.min() <= 40 else white


def refuse_emitted_light(pixels: Pixels) -> None:
    """Fluorescence is mostly black with hardly a light pixel; a brightfield slide with a black border still has glass.

    Raises:
        NotBrightfield: by name, with the two shares it was decided on.
    """
    values = pixels.values[pixels.valid]
    if not len(values):
        return
    dark = values.max(-1) < DARK
    bright = values[~dark]
    light = float((bright.min(-1) >= LIGHT).mean()) if len(bright) else 0.0
    if dark.mean() >= 0.5 and light < 0.2:
        raise NotBrightfield(
            f"fluorescence, not brightfield: {dark.mean():.1%} of the pixels are dark and light comes through "
            f"{light:.1%} of the others",
            todo="leave it out; only transmitted-light images (H&E, immunohistochemistry, smears) are supported",
        )


def thumbnail_px(grid: TileGrid) -> int:
    """Longer side of a thumbnail on which coverage is decided; depends on the grid alone."""
    longest = max(grid.size)
    return min(max(math.ceil(longest / min(grid.tile_width, grid.tile_height) * PX_PER_TILE), MIN_PX), MAX_PX)


def tissue_coverage(raster: Raster, grid: TileGrid, min_coverage: float) -> Coverage:
    """Coverage of every tile of a grid by stained tissue.

    What the thumbnail could not read counts as content, so that reading the tile decides its fate, not silence.

    Args:
        raster: an open brightfield raster.
        grid: its tiles.
        min_coverage: share of a tile that must be content, in (0, 1].

    Raises:
        NotBrightfield: see :func:`refuse_emitted_light`.
        ReadError: nothing of the raster can be read.
        UserError: ``min_coverage`` is out of range.
    """
    if not 0 < min_coverage <= 1:
        raise UserError(f"tile.min_coverage is {min_coverage}; expected a share above 0 and at most 1")
    thumbnail = raster.thumbnail(thumbnail_px(grid))
    refuse_emitted_light(thumbnail)
    mask = tissue_mask(thumbnail)
    rows, columns = mask.shape
    for lost in raster.unreadable if isinstance(raster, NamesUnreadable) else ():
        y = _pixels(lost.y, lost.height, rows / raster.size[1], rows)
        x = _pixels(lost.x, lost.width, columns / raster.size[0], columns)
        mask[y, x] = True
    windows = grid.windows()
    fraction = window_means(mask, windows, raster.size)
    inside = window_means(np.ones_like(mask), windows, raster.size)
    black = window_means(thumbnail.values.max(-1) < BLACK, windows, raster.size)
    reason = tuple(
        "" if part >= min_coverage else "outside" if within < min_coverage else "dark" if dark > 0.5 else "background"
        for part, within, dark in zip(fraction, inside, black, strict=True)
    )
    return Coverage(fraction, reason, thumbnail, mask)


def window_means(mask: np.ndarray, windows: Sequence[Window], size: tuple[int, int]) -> np.ndarray:
    """Exact mean of a mask over fractional windows, by a summed-area table; outside of the mask is 0.

    Args:
        mask: [h, w], over the whole raster.
        windows: [N] in level-0 pixels.
        size: (width, height) of level 0.

    Returns:
        [N] float64.
    """
    rows, columns = mask.shape
    table = np.zeros((rows + 1, columns + 1))
    table[1:, 1:] = mask.cumsum(0, dtype=np.float64).cumsum(1)
    box = np.array([(w.x, w.y, w.x + w.width, w.y + w.height) for w in windows], np.float64).reshape(-1, 4)
    x = np.clip(box[:, [0, 2]] * (columns / size[0]), 0, columns)
    y = np.clip(box[:, [1, 3]] * (rows / size[1]), 0, rows)

    def total(across: np.ndarray, down: np.ndarray) -> np.ndarray:  # bilinear: exact for fractions of a pixel
        i, j = np.minimum(across.astype(int), columns - 1), np.minimum(down.astype(int), rows - 1)
        u, v = across - i, down - j
        upper = table[j, i] * (1 - u) + table[j, i + 1] * u
        lower = table[j + 1, i] * (1 - u) + table[j + 1, i + 1] * u
        return np.asarray(upper * (1 - v) + lower * v)

    sums = total(x[:, 1], y[:, 1]) - total(x[:, 0], y[:, 1]) - total(x[:, 1], y[:, 0]) + total(x[:, 0], y[:, 0])
    area = (box[:, 2] - box[:, 0]) * (columns / size[0]) * (box[:, 3] - box[:, 1]) * (rows / size[1])
    return np.asarray(np.clip(sums / area, 0.0, 1.0))


def _pixels(start: float, length: float, factor: float, limit: int) -> slice:
    first = min(max(math.floor(start * factor), 0), limit - 1)
    return slice(first, max(first + 1, min(math.ceil((start + length) * factor), limit)))
