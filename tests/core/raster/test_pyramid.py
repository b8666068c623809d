from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from core.raster.pyramid import BLOCK_PX, choose_level
from core.types import Interpolation, Level, Window
from tests.core.raster.pictures import MemoryRaster, noise, shrink


def test_the_level_is_the_coarsest_one_at_least_as_fine_as_wanted() -> None:
    levels = (Level(4000, 4000, 1.0), Level(1000, 1000, 4.000377), Level(250, 250, 16.0))
    assert [choose_level(levels, wanted) for wanted in (0.5, 1, 3.9, 4.0, 15, 16, 100)] == [0, 0, 0, 1, 1, 2, 2]


def test_an_aligned_window_is_copied_bit_for_bit() -> None:
    picture = noise(300, 400)
    pixels = MemoryRaster([picture]).read(Window(17, 23, 64, 48), (64, 48))
    assert np.array_equal(pixels.values, picture[23:71, 17:81])
    assert pixels.valid.all()


def test_outside_of_the_raster_is_white_and_not_valid() -> None:
    picture = noise(100, 100)
    pixels = MemoryRaster([picture]).read(Window(80, -10, 40, 40), (40, 40))
    assert np.array_equal(pixels.values[10:, :20], picture[:30, 80:])
    assert (pixels.values[:10] == 255).all()
    assert pixels.valid.sum() == 30 * 20
    assert pixels.valid[10:, :20].all()


def test_a_window_wholly_outside_fetches_nothing() -> None:
    raster = MemoryRaster([noise(64, 64)])
    assert not raster.read(Window(-100, 0, 50, 50), (50, 50)).valid.any()
    assert raster.fetched == []


def test_a_downsampled_read_is_the_area_mean_of_its_window() -> None:
    picture = noise(512, 512)
    pixels = MemoryRaster([picture]).read(Window(64, 128, 256, 256), (32, 32))
    expected = picture[128:384, 64:320].reshape(32, 8, 32, 8, 3).mean((1, 3))
    assert np.abs(pixels.values - expected).mean() < 2


def grain(height: int, width: int) -> np.ndarray:
    """Edges one pixel apart: filters that differ at all differ here."""
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b).max())


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("window", [Window(40.3, 25.75, 301.5, 200.2), Window(61, 70, 37.5, 29.5)])  # down, up
def test_a_window_is_resampled_as_pillow_resizes_the_whole_picture(
    window: Window, interpolation: Interpolation
) -> None:
    picture = grain(300, 400)
    read = MemoryRaster([picture]).read(window, (64, 48), interpolation)
    box = (window.x, window.y, window.x + window.width, window.y + window.height)
    filters = {name: Image.Resampling[name.upper()] for name in ("bilinear", "bicubic")}
    wanted = {name: np.asarray(Image.fromarray(picture).resize((64, 48), kind, box)) for name, kind in filters.items()}
    assert apart(wanted["bilinear"], wanted["bicubic"]) > 10
    assert apart(read.values, wanted[interpolation]) <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_whole_picture_made_smaller_is_that_of_torch_with_antialiasing(interpolation: Interpolation) -> None:
    picture = grain(240, 320)
    read = MemoryRaster([picture]).read(Window(0, 0, 320, 240), (100, 75), interpolation)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].double()
    wanted = torch.nn.functional.interpolate(pixels, (75, 100), mode=interpolation, antialias=True)
    assert apart(read.values, wanted[0].clamp(0, 255).round().permute(1, 2, 0).numpy()) <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_an_aligned_window_is_copied_whatever_the_interpolation(interpolation: Interpolation) -> None:
    picture = grain(128, 128)
    raster = MemoryRaster([picture])
    assert apart(raster.read(Window(3, 5, 64, 64), (64, 64), interpolation).values, picture[5:69, 3:67]) == 0
    assert raster.fetched == [(0, 3, 5, 64, 64)]  # no margin is fetched


def test_a_coarse_level_gives_the_same_place_as_level_0() -> None:
    picture = noise(1003, 1207)  # sizes that no factor divides
    raster = MemoryRaster([picture, shrink(picture, 4), shrink(picture, 16)])
    window = Window(201.5, 99.25, 640, 480)
    coarse = raster.read(window, (80, 60))
    assert {level for level, *_ in raster.fetched} == {1}
    fine = MemoryRaster([picture]).read(window, (80, 60))
    assert np.abs(coarse.values.astype(int) - fine.values).mean() < 2.5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_read_in_blocks_has_no_seams(interpolation: Interpolation) -> None:
    picture = noise(2 * BLOCK_PX + 100, 600)
    blocks = MemoryRaster([picture])
    whole = blocks.read(Window(0, 0, 600, len(picture)), (60, len(picture) // 10), interpolation)
    assert len(blocks.fetched) == 3
    assert max(height for *_, height in blocks.fetched) <= BLOCK_PX + 50
    edge = round(len(picture) // 10 / 3)
    step = len(picture) / (len(picture) // 10)
    window = Window(0, (edge - 20) * step, 600, 40 * step)
    around = MemoryRaster([picture]).read(window, (60, 40), interpolation)
    assert np.abs(whole.values[edge - 15 : edge + 15].astype(int) - around.values[5:35]).max() <= 1


def test_the_edge_of_the_raster_takes_no_background_into_the_filter() -> None:
    picture = np.full((256, 256, 3), 40, np.uint8)
    assert (MemoryRaster([picture]).read(Window(0, 0, 256, 256), (100, 100)).values == 40).all()
    over = MemoryRaster([picture]).read(Window(100, 0, 256, 128), (128, 64))
    assert (over.values[:, :76] == 40).all()


def test_a_thumbnail_keeps_the_shape_and_enlarges_nothing() -> None:
    raster = MemoryRaster([noise(100, 300)])
    assert raster.thumbnail(60).values.shape == (20, 60, 3)
    assert raster.thumbnail(1000).values.shape == (100, 300, 3)


def test_an_empty_window_is_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="empty window"):
        MemoryRaster([noise(64, 64)]).read(Window(0, 0, 0, 10), (10, 10))
