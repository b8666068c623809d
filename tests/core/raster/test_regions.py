"""Tiles of other programs lie on no common grid; the areas made of them are whole all the same."""

from __future__ import annotations

import numpy as np
import pytest

from core.raster.regions import merge_windows
from core.types import Window


def test_neighbours_a_pixel_apart_are_one_area_and_corners_join_nothing() -> None:
    edges = [0, 100, 201, 301]  # whole pixels of 100.4: a slit of one, and an overlap of none
    row = [Window(x, 50, 100, 100) for x in edges[:3]]
    corner = Window(301, 150, 100, 100)
    areas, dropped = merge_windows([*row, corner], np.array([1.0, 2.0, 3.0, 10.0]), 1, (1000, 1000), 10)
    assert dropped == 0
    assert [(area.tiles, area.probability, area.label) for area in areas] == [(3, 2.0, 1), (1, 10.0, 1)]
    assert areas[0].polygon.bounds == pytest.approx((0, 50, 301, 150), abs=1)
    assert areas[1].polygon.bounds == pytest.approx((301, 150, 401, 250), abs=1)


def test_areas_end_where_the_slide_ends_and_the_largest_are_kept() -> None:
    windows = [Window(950, 0, 100, 100), Window(0, 0, 100, 100), Window(0, 400, 100, 100), Window(0, 500, 100, 100)]
    areas, dropped = merge_windows(windows, np.ones(4), 0, (1000, 1000), 2)
    assert dropped == 1
    assert [area.tiles for area in areas] == [2, 1]
    assert max(area.polygon.bounds[2] for area in merge_windows(windows, np.ones(4), 0, (1000, 1000), 9)[0]) == 1000


def test_a_hole_stays_a_hole() -> None:
    ring = [Window(x, y, 100, 100) for x in (0, 100, 200) for y in (0, 100, 200) if (x, y) != (100, 100)]
    (area,), _ = merge_windows(ring, np.ones(8), 0, (300, 300), 5)
    assert area.polygon.area == pytest.approx(8 * 100**2, rel=0.001)
    assert len(area.polygon.interiors) == 1


def test_no_tile_makes_no_area() -> None:
    assert merge_windows([], np.zeros(0), 0, (10, 10), 5) == ([], 0)
