from __future__ import annotations

import numpy as np
import pytest

from core.raster.grid import TileGrid
from core.raster.regions import merge_tiles
from core.raster.stitch import smooth, stitch
from core.types import Window
from tests.core.raster.pictures import HALF_MICRON


def grid(columns: int, rows: int, overlap: float = 0.0) -> TileGrid:
    stride = 100 * (1 - overlap)
    size = round(100 + (columns - 1) * stride), round(100 + (rows - 1) * stride)
    made = TileGrid(size, HALF_MICRON, 100, 0.5, overlap)
    assert (made.columns, made.rows) == (columns, rows)
    return made


def test_a_tile_lies_on_the_map_where_it_lies_on_the_raster() -> None:
    board = stitch([Window(300, 0, 100, 100)], np.array([[0.7]]), (400, 200), (40, 20))
    assert np.nanmax(board) == pytest.approx(0.7)
    assert (~np.isnan(board[..., 0])).nonzero()[0].max() == 9
    assert (~np.isnan(board[..., 0])).nonzero()[1].min() == 30


def test_overlapping_tiles_are_averaged() -> None:
    windows = [Window(0, 0, 100, 100), Window(50, 0, 100, 100)]
    board = stitch(windows, np.array([[0.0], [1.0]]), (150, 100), (3, 2))[..., 0]
    assert board.tolist() == [[0.0, 0.5, 1.0]] * 2


def test_every_tile_has_a_pixel_however_small_the_map() -> None:
    tiles = grid(100, 1)
    board = stitch(tiles.windows(), np.arange(100.0)[:, None], tiles.size, (10, 1))
    assert not np.isnan(board).any()


def test_smoothing_is_the_mean_with_the_neighbours_that_are_there() -> None:
    values = np.array([[0.0], [1.0], [0.0]])
    assert smooth(grid(3, 2), np.array([0, 1, 4]), values)[:, 0].tolist() == pytest.approx([0.5, 1 / 3, 0.5])


def test_neighbours_of_a_class_become_one_polygon_and_diagonals_do_not() -> None:
    areas, dropped = merge_tiles(grid(3, 3), np.arange(9), np.array([0, 0, 1, 1, 0, 1, 0, 1, 1]), np.ones(9), 2000)
    assert dropped == {}
    assert [(area.label, area.tiles) for area in areas] == [(0, 3), (0, 1), (1, 4), (1, 1)]
    assert areas[0].polygon.area == 3 * 100 * 100
    assert areas[0].polygon.bounds == (0, 0, 200, 200)


def test_a_ring_of_tiles_keeps_its_hole() -> None:
    labels = np.array([0, 0, 0, 0, -1, 0, 0, 0, 0])
    areas, _ = merge_tiles(grid(3, 3), np.arange(9), labels, np.full(9, 0.25), 2000)
    assert len(areas) == 1
    assert len(areas[0].polygon.interiors) == 1
    assert areas[0].probability == 0.25


def test_polygons_of_overlapping_tiles_meet_without_overlap() -> None:
    tiles = grid(4, 3, 0.5)
    rng = np.random.default_rng(0)
    areas, _ = merge_tiles(tiles, np.arange(12), rng.integers(0, 3, 12), np.ones(12), 2000)
    assert sum(area.pixels for area in areas) == pytest.approx(tiles.size[0] * tiles.size[1])


def test_the_largest_areas_are_kept_and_the_others_counted() -> None:
    labels = np.array([0, -1, 0, -1, 0, 0])
    areas, dropped = merge_tiles(grid(6, 1), np.arange(6), labels, np.ones(6), 1)
    assert [area.tiles for area in areas] == [2]
    assert dropped == {0: 2}
