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
from core.types import Window

SLIT = 0.5  # pixels


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
        score: str | None = None,
    ) -> None:
        """Writes one file; ``score`` is what an area's number is called, where it is not the writer's own word."""


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


def merge_windows(
    windows: Sequence[Window], scores: np.ndarray, label: int, size: tuple[int, int], limit: int
) -> tuple[list[Area], int]:
    """Merges tiles that share an edge, wherever they lie: features of other programs are on no common grid.

    Corners in whole pixels leave slits of one between neighbours; every tile grows by half a pixel for the union, which
    shrinks by as much afterwards.

    Args:
        windows: [N] of one class.
        scores: [N].
        label: number of the class.
        size: (width, height) of level 0.
        limit: areas kept, the largest ones.

    Returns:
        The areas by falling size, and how many were left out.
    """
    if not windows:
        return [], 0
    corners = np.array([(w.x, w.y, w.x + w.width, w.y + w.height) for w in windows])
    low, high = corners[:, :2] - SLIT, corners[:, 2:] + SLIT
    union = shapely.union_all(shapely.box(low[:, 0], low[:, 1], high[:, 0], high[:, 1]))
    whole = shapely.simplify(shapely.buffer(union, -SLIT, join_style="mitre"), 2 * SLIT)
    parts = shapely.get_parts(shapely.intersection(whole, shapely.box(0, 0, *size)))
    parts = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    order = np.argsort(-shapely.area(parts), kind="stable")
    middles = shapely.points((corners[:, :2] + corners[:, 2:]) / 2)
    tiles, owners = shapely.STRtree(parts).query(middles, predicate="intersects")
    areas = []
    for part in order[:limit]:
        mine = tiles[owners == part]
        score = float(scores[mine].mean()) if len(mine) else float("nan")
        areas.append(Area(label, parts[part], len(mine), score))
    return areas, max(0, len(parts) - limit)
