"""One test of anybody's reader against the contract of :mod:`core.raster.reader`."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from core.raster.reader import Identifies, Raster, Reader
from core.types import SUPPLIED, Resolution, UserError, Window


def check_reader(reader: Reader, file: str | Path) -> None:
    """Tests a reader on one sound file that has at least 8 x 8 pixels.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    file = Path(file)
    if isinstance(reader, Identifies):
        assert reader.identify(file) is not None, "identify gives None for a picture"
    with reader.open(file) as raster:
        assert isinstance(raster, Raster), "open gives no Raster: an attribute or method is missing"
        assert raster.path == file, "raster.path is not the path that was opened"
        _check_levels(raster)
        assert raster.resolution.unit == reader.unit, "the resolution's unit is not the reader's"
        _check_reads(raster)
        whole = raster.thumbnail(64)
        assert max(whole.values.shape[:2]) <= 64, "the thumbnail is larger than max_px"
        copy = pickle.loads(pickle.dumps(raster))
        with copy:
            again = copy.thumbnail(64)
        assert np.array_equal(again.values, whole.values), "an unpickled raster reads other pixels"
    with reader.open(file, resolution=0.75) as raster:
        given = raster.resolution
        assert isinstance(given, Resolution), "a resolution that was supplied is not used"
        assert given.mean == 0.75, "a resolution that was supplied is not used"
        assert given.source == SUPPLIED, f"the source of a resolution that was supplied is not '{SUPPLIED}'"
    try:
        reader.open(file.with_name("there is no such file.tiff"))
    except UserError:
        return
    raise AssertionError("a missing file opens without a UserError")


def _check_levels(raster: Raster) -> None:
    width, height = raster.size
    assert (raster.levels[0].width, raster.levels[0].height) == (width, height), "level 0 is not the raster's size"
    assert raster.levels[0].downsample == 1, "level 0 is downsampled"
    factors = [level.downsample for level in raster.levels]
    assert factors == sorted(factors), "levels are not ordered from fine to coarse"


def _check_reads(raster: Raster) -> None:
    width, height = raster.size
    half = Window(0, 0, width // 2, height // 2)
    first = raster.read(half, (8, 6))
    assert first.values.shape == (6, 8, 3), f"8 x 6 pixels were asked, the shape is {first.values.shape}"
    assert first.values.dtype == np.uint8, f"pixels are {first.values.dtype}, not uint8"
    assert first.valid.shape == (6, 8), f"the mask's shape is {first.valid.shape}"
    assert first.valid.dtype == np.bool_, f"the mask is {first.valid.dtype}, not bool"
    assert np.array_equal(first.values, raster.read(half, (8, 6)).values), "two equal reads differ"
    side = min(8, width, height)
    corner = raster.read(Window(0, 0, side, side), (side, side))
    cubic = raster.read(Window(0, 0, side, side), (side, side), "bicubic")
    assert np.array_equal(cubic.values, corner.values), "pixels that need no resampling depend on the interpolation"
    shifted = raster.read(Window(-side, -side, 2 * side, 2 * side), (2 * side, 2 * side))
    assert not shifted.valid[:side].any(), "pixels outside of the raster are called valid"
    assert not shifted.valid[:, :side].any(), "pixels outside of the raster are called valid"
    assert np.array_equal(shifted.values[side:, side:], corner.values), "a window over the border shifts its pixels"
    outside = raster.read(Window(2 * width, 2 * height, side, side), (side, side))
    assert not outside.valid.any(), "a window outside of the raster is called valid"
