from __future__ import annotations

import numpy as np
import pytest

from core.raster.coverage import (
    NotBrightfield,
    glass_colour,
    refuse_emitted_light,
    tissue_coverage,
    tissue_mask,
    window_means,
)
from core.raster.grid import TileGrid
from core.types import Pixels, UserError, Window
from tests.core.raster.pictures import HALF_MICRON, MemoryRaster

PINK, GLASS = (200, 120, 170), (243, 243, 243)


def slide(height: int = 512, width: int = 512, colour: tuple[int, int, int] = GLASS) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = rng.integers(-4, 5, (height, width, 1)) + rng.integers(-2, 3, (height, width, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def seen(picture: np.ndarray) -> Pixels:
    return Pixels(picture, np.ones(picture.shape[:2], bool))


def test_stained_tissue_is_found_where_it_is() -> None:
    picture = slide()
    picture[100:200, 300:400] = PINK
    mask = tissue_mask(seen(picture))
    assert mask[105:195, 305:395].all()
    assert mask.sum() == pytest.approx(100 * 100, rel=0.05)


def test_empty_glass_stays_empty_also_under_a_yellow_lamp() -> None:
    for colour in (GLASS, (255, 255, 255), (246, 240, 214)):
        assert tissue_mask(seen(slide(colour=colour))).mean() < 0.001


def test_black_borders_and_grey_dust_are_not_content() -> None:
    picture = slide()
    picture[:, :150] = 0
    picture[300:320, 300:320] = 110
    assert tissue_mask(seen(picture)).mean() < 0.005


def test_a_slide_full_of_tissue_keeps_its_colour() -> None:
    picture = slide(colour=PINK)
    assert (glass_colour(seen(picture)) == 255).all()
    assert tissue_mask(seen(picture)).all()


def test_fluorescence_is_named_and_a_black_border_is_not_fluorescence() -> None:
    signal = np.zeros((256, 256, 3), np.uint8)
    signal[100:120, 100:140, 0] = 200
    with pytest.raises(NotBrightfield, match="fluorescence, not brightfield"):
        refuse_emitted_light(seen(signal))
    grey = np.full((256, 256, 3), 12, np.uint8)
    grey[50:60, 50:60] = 90
    with pytest.raises(NotBrightfield):
        refuse_emitted_light(seen(grey))
    bordered = slide()
    bordered[:, :400] = 0
    bordered[:100, 400:] = PINK
    refuse_emitted_light(seen(bordered))


def test_each_cell_says_why_it_is_not_kept() -> None:
    picture = slide(200, 400)
    picture[:100, :100] = PINK
    picture[:100, 100:200] = 0
    coverage = tissue_coverage(MemoryRaster([picture]), TileGrid((400, 200), HALF_MICRON, 120, 0.5), 0.4)
    assert coverage.reason == ("", "dark", "background", "outside", "background", "background", "background", "outside")
    assert coverage.kept.tolist() == [0]
    assert coverage.fraction[0] == pytest.approx((100 / 120) ** 2, abs=0.03)


def test_a_window_mean_is_exact_for_fractions_of_a_pixel() -> None:
    mask = np.array([[1, 0], [0, 1]], bool)
    windows = [Window(0, 0, 20, 20), Window(5, 5, 10, 10), Window(0, 0, 10, 10), Window(15, 15, 10, 10)]
    assert window_means(mask, windows, (20, 20)).tolist() == [0.5, 0.5, 1.0, 0.25]


def test_what_the_thumbnail_could_not_read_is_left_for_the_tile_to_decide() -> None:
    class Broken(MemoryRaster):
        @property
        def unreadable(self) -> tuple[Window, ...]:
            return (Window(128, 0, 128, 128),)

    grid = TileGrid((256, 128), HALF_MICRON, 128, 0.5)
    assert tissue_coverage(MemoryRaster([slide(128, 256)]), grid, 0.5).kept.tolist() == []
    assert tissue_coverage(Broken([slide(128, 256)]), grid, 0.5).kept.tolist() == [1]


def test_a_coverage_of_zero_is_refused() -> None:
    with pytest.raises(UserError, match="min_coverage"):
        tissue_coverage(MemoryRaster([slide()]), TileGrid((512, 512), HALF_MICRON, 256, 0.5), 0)
