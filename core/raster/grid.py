"""Tiles on a grid in physical units, whatever the magnification a raster was scanned at."""

from __future__ import annotations

import math
from dataclasses import dataclass

from core.types import Resolution, UserError, Window

EPSILON = 1e-6  # of a tile: rounding noise is not another column


@dataclass(frozen=True)
class TileGrid:
    """A regular grid from the top left corner that covers the whole raster.

    Each tile is ``tile_px`` pixels of ``tile_resolution`` (unit per pixel) wide and high: exactly, so its size in
    level-0 pixels is fractional in general and differs between axes where the raster's resolution does. The last
    column and row may reach over the border; how much of a tile holds content is for the coverage to say.

    Args:
        size: (width, height) of the raster in level-0 pixels.
        resolution: of a level-0 pixel.
        tile_px: side of a tile in its own pixels.
        tile_resolution: physical size of a pixel of the tile, in the unit of ``resolution``.
        overlap: share of its side that a tile has in common with the next, in [0, 1).

    Raises:
        UserError: a value out of range (an overlap of 1 would never end).
    """

    size: tuple[int, int]
    resolution: Resolution
    tile_px: int
    tile_resolution: float
    overlap: float = 0.0

    def __post_init__(self) -> None:
        if self.tile_px < 1:
            raise UserError(f"tile.size_px is {self.tile_px}; expected at least 1")
        if not (self.tile_resolution > 0 and math.isfinite(self.tile_resolution)):
            raise UserError(f"tile.resolution is {self.tile_resolution}; expected a positive number")
        if not 0 <= self.overlap < 1:
            raise UserError(
                f"tile.overlap is {self.overlap}; expected a share of the tile's side, at least 0 and below 1"
            )

    @property
    def tile_width(self) -> float:
        """Width of a tile in level-0 pixels."""
        return self.tile_px * self.tile_resolution / self.resolution.x

    @property
    def tile_height(self) -> float:
        """Height of a tile in level-0 pixels."""
        return self.tile_px * self.tile_resolution / self.resolution.y

    @property
    def stride_x(self) -> float:
        """Distance of neighbouring columns in level-0 pixels."""
        return self.tile_width * (1 - self.overlap)

    @property
    def stride_y(self) -> float:
        """Distance of neighbouring rows in level-0 pixels."""
        return self.tile_height * (1 - self.overlap)

    @property
    def columns(self) -> int:
        return _count(self.size[0], self.tile_width, self.stride_x)

    @property
    def rows(self) -> int:
        return _count(self.size[1], self.tile_height, self.stride_y)

    def __len__(self) -> int:
        return self.columns * self.rows

    def window(self, index: int) -> Window:
        """Tile number ``index``, counted row by row."""
        row, column = divmod(index, self.columns)
        return Window(column * self.stride_x, row * self.stride_y, self.tile_width, self.tile_height)

    def windows(self) -> list[Window]:
        """All tiles, row by row."""
        return [self.window(index) for index in range(len(self))]

    def column_edges(self) -> list[float]:
        """Where cells meet along x, ``columns + 1`` values in level-0 pixels.

        A cell is the part of a tile that no other tile is nearer to: without overlap the tile, with overlap its middle,
        and at the border the middle up to the border. Cells cover the raster and never overlap.
        """
        return _edges(self.columns, self.stride_x, self.tile_width, self.size[0])

    def row_edges(self) -> list[float]:
        """Where cells meet along y, ``rows + 1`` values in level-0 pixels."""
        return _edges(self.rows, self.stride_y, self.tile_height, self.size[1])


def _count(length: int, tile: float, stride: float) -> int:
    return 1 + max(0, math.ceil((length - tile) / stride - EPSILON))


def _edges(count: int, stride: float, tile: float, length: int) -> list[float]:
    margin = (tile - stride) / 2
    return [0.0, *(index * stride + margin for index in range(1, count)), float(length)]
