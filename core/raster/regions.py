"""Neighbouring tiles of one class, merged into polygons that other programs can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import shapely
from scipy import ndimage

from core.raster.grid import TileGrid
from core.raster.reader import Raster


@dataclass(frozen=True)
class Area:
    """One connected area of one class."""

    label: int  # number of the class
    polygon: shapely.Polygon  # in level-0 pixels, holes included, clipped to the raster
    tiles: int
    probability: float  # mean over its tiles

    @property
    def pixels(self) -> float:
        """Area in level-0 pixels."""
        return float(self.polygon.area)


class AreaWriter(Protocol):
    """Writes areas in the format of a domain's viewer."""

    suffix: str

    def write(
        self,
        path: Path,
        raster: Raster,
        areas: Sequence[Area],
        names: Sequence[str],
        colours: Sequence[tuple[int, int, int]],
    ) -> None: ...


def merge_tiles(
    grid: TileGrid, indices: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, limit: int
) -> tuple[list[Area], dict[int, int]]:
    """Merges tiles that share an edge and a class.

    The union is taken in whole numbers of cells and carried to pixels afterwards, so that it has no slivers.

    Args:
        grid: of the tiles.
        indices: [N] number of each tile in the grid.
        labels: [N] class; a negative one belongs to no area.
        probabilities: [N] of its class.
        limit: areas kept of each class, the largest ones.

    Returns:
        The areas, by class and falling size, and how many of each class were left out.
    """
    board = np.full((grid.rows, grid.columns), -1)
    score = np.zeros((grid.rows, grid.columns))
    row, column = np.divmod(indices, grid.columns)
    board[row, column], score[row, column] = labels, probabilities
    edges_x, edges_y = np.asarray(grid.column_edges()), np.asarray(grid.row_edges())

    def to_pixels(points: np.ndarray) -> np.ndarray:
        corners = np.rint(points).astype(int)
        return np.stack([edges_x[corners[:, 0]], edges_y[corners[:, 1]]], 1)

    areas, dropped = [], {}
    for label in sorted({int(value) for value in labels if value >= 0}):
        parts, count = ndimage.label(board == label)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        largest = np.argsort(-sizes, kind="stable")[:limit]
        if count > limit:
            dropped[label] = count - limit
        boxes = ndimage.find_objects(parts)
        for part in largest:
            where = boxes[part]
            y, x = np.nonzero(parts[where] == part + 1)
            x, y = x + where[1].start, y + where[0].start
            union = shapely.union_all(shapely.box(x, y, x + 1, y + 1)).simplify(0)  # without points on straight edges
            polygon = shapely.transform(union, to_pixels)
            areas.append(Area(label, polygon, len(x), float(score[y, x].mean())))
    return areas, dropped
