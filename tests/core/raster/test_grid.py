from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.raster.grid import TileGrid
from core.types import Resolution, UserError


def um(x: float, y: float | None = None) -> Resolution:
    return Resolution(x, x if y is None else y, "um", "test")


def test_tiles_have_their_size_in_microns_at_every_magnification() -> None:
    for mpp in (0.2281750559, 0.25, 0.499, 1.01):
        window = TileGrid((10_000, 8_000), um(mpp), 256, 0.5).window(7)
        assert window.width * mpp == pytest.approx(128, rel=1e-12)
        assert window.height * mpp == pytest.approx(128, rel=1e-12)


def test_pixels_that_are_not_square_give_tiles_that_are_square_in_microns() -> None:
    window = TileGrid((1000, 1000), um(0.5, 0.25), 100, 0.5).window(0)
    assert (window.width, window.height) == (100, 200)


def test_the_last_column_reaches_over_the_border_and_rounding_adds_none() -> None:
    assert TileGrid((512, 512), um(0.5), 256, 0.5).columns == 2
    assert TileGrid((513, 512), um(0.5), 256, 0.5).columns == 3
    assert TileGrid((512, 512), um(0.499), 256, 0.499).columns == 2
    assert TileGrid((16, 16), um(0.5), 256, 0.5).columns == 1


def test_rows_count_from_the_top_left() -> None:
    grid = TileGrid((600, 400), um(1.0), 200, 1.0)
    assert [(w.x, w.y) for w in grid.windows()] == [(0, 0), (200, 0), (400, 0), (0, 200), (200, 200), (400, 200)]


@given(
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    mpp=st.floats(0.1, 2),
    overlap=st.floats(0, 0.9),
)
def test_tiles_and_cells_cover_the_raster(size: tuple[int, int], mpp: float, overlap: float) -> None:
    grid = TileGrid(size, um(mpp), 224, 0.5, overlap)
    last = grid.window(len(grid) - 1)
    assert last.x + last.width >= size[0] - 1e-3
    assert last.y + last.height >= size[1] - 1e-3
    assert last.x < size[0]
    for edges, length in ((grid.column_edges(), size[0]), (grid.row_edges(), size[1])):
        assert edges[0] == 0
        assert edges[-1] == length
    assert len(grid.column_edges()) == grid.columns + 1


@pytest.mark.parametrize(
    ("values", "key"), [((0, 0.5, 0), "size_px"), ((9, 0, 0), "resolution"), ((9, 1, 1), "overlap")]
)
def test_values_that_would_never_end_are_refused_by_key(values: tuple[int, float, float], key: str) -> None:
    with pytest.raises(UserError, match=f"tile.{key}"):
        TileGrid((100, 100), um(0.5), *values)
