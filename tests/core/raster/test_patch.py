from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from core.raster.patch import cut
from core.types import Geometry, NoResolution, Resolution, UserError, Window
from tests.core.raster.pictures import HALF_MICRON, MemoryRaster, noise, picture_raster


def test_a_patch_has_the_models_field_of_view_around_the_centre() -> None:
    raster = MemoryRaster([noise(400, 400)])
    patch = cut(raster, (200, 150), Geometry(64, 1.0))
    assert patch.window == Window(136, 86, 128, 128)
    assert patch.pixels.shape == (64, 64, 3)
    assert patch.resolution == 1.0
    assert cut(raster, Window(190, 140, 20, 20), Geometry(64, 1.0)).window == patch.window


def test_a_patch_at_the_rasters_own_resolution_is_not_resampled() -> None:
    picture = noise(301, 301)
    patch = cut(MemoryRaster([picture]), None, Geometry(100, 0.5))
    x, y = int(patch.window.x), int(patch.window.y)
    assert (x, y) == (100, 100)
    assert np.array_equal(patch.pixels, picture[y : y + 100, x : x + 100])


def test_a_patch_is_resampled_by_the_models_own_interpolation() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    for name, kind in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        patch = cut(MemoryRaster([picture]), (150, 140), Geometry(64, 1.1, interpolation=name))  # type: ignore[arg-type]
        w = patch.window
        wanted = np.asarray(Image.fromarray(picture).resize((64, 64), kind, (w.x, w.y, w.x + w.width, w.y + w.height)))
        assert np.abs(patch.pixels.astype(int) - wanted).max() <= 1


def test_a_picture_smaller_than_the_field_of_view_is_padded_not_stretched() -> None:
    patch = cut(picture_raster(noise(50, 50), HALF_MICRON), None, Geometry(100, 0.5))
    assert patch.valid.sum() == 50 * 50
    assert patch.valid[25:75, 25:75].all()


def test_a_model_without_resolution_takes_the_middle_square_of_any_picture() -> None:
    picture = noise(60, 100)
    patch = cut(picture_raster(picture, NoResolution("unknown", "um")), None, Geometry(60, None))
    assert patch.window == Window(20, 0, 60, 60)
    assert np.array_equal(patch.pixels, picture[:, 20:80])
    assert patch.resolution is None


def test_a_model_with_resolution_refuses_a_picture_without_and_names_the_cure() -> None:
    raster = picture_raster(noise(60, 60), NoResolution("no microns per pixel; supply it in a column mpp", "um"))
    with pytest.raises(UserError, match="supply it in a column mpp"):
        cut(raster, None, Geometry(60, 0.5))


def test_units_are_not_mixed() -> None:
    with pytest.raises(UserError, match="um, the raster's in m"):
        cut(MemoryRaster([noise(60, 60)], Resolution(10, 10, "m", "test")), None, Geometry(60, 0.5))
