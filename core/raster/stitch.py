"""From values of tiles back to a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.raster.grid import TileGrid
from core.types import Window


def stitch(
    windows: Sequence[Window], values: np.ndarray, size: tuple[int, int], out_size: tuple[int, int]
) -> np.ndarray:
    """Lays tile values on a map of the whole raster; where tiles overlap, their mean.

    Args:
        windows: [N] tiles in level-0 pixels.
        values: [N, C].
        size: (width, height) of level 0.
        out_size: (width, height) of the map.

    Returns:
        [H, W, C] float32; NaN where there is no tile. A tile is at least one pixel.
    """
    columns, rows = out_size
    fx, fy = columns / size[0], rows / size[1]
    total = np.zeros((rows, columns, values.shape[1]), np.float32)
    count = np.zeros((rows, columns), np.float32)
    for window, value in zip(windows, values, strict=True):
        across = _span(window.x, window.width, fx, columns)
        down = _span(window.y, window.height, fy, rows)
        total[down, across] += value
        count[down, across] += 1
    return np.where(count[..., None] > 0, total / np.maximum(count, 1)[..., None], np.float32("nan"))


def _span(start: float, length: float, factor: float, limit: int) -> slice:
    first = min(max(round(start * factor), 0), limit - 1)
    return slice(first, max(first + 1, min(round((start + length) * factor), limit)))


def smooth(grid: TileGrid, indices: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of each tile and those of its four neighbours that are there (KEEP, arXiv 2412.13126, segmentation).

    Args:
        grid: the grid of the tiles.
        indices: [N] number of each tile in the grid.
        values: [N, C].

    Returns:
        [N, C] in the order of ``indices``.
    """
    board = np.zeros((grid.rows + 2, grid.columns + 2, values.shape[1]), values.dtype)
    there = np.zeros((grid.rows + 2, grid.columns + 2, 1), values.dtype)
    row, column = np.divmod(indices, grid.columns)
    board[row + 1, column + 1] = values
    there[row + 1, column + 1] = 1
    total, count = np.zeros_like(values), np.zeros((len(values), 1), values.dtype)
    for down, across in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2)):
        total += board[row + down, column + across]
        count += there[row + down, column + across]
    return total / count
