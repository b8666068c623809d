"""The contract of a reader, and one check that tests anybody's reader against it.

A :class:`Raster` is a picture with a pyramid and, where the file says so credibly, a physical resolution. It is cheap
to pickle (by path) and opens its file lazily in every process, so that it can be handed to workers of any start method.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import numpy as np

from core.types import Level, NoResolution, Pixels, Resolution, Unit, UserError, Window


class ReadError(UserError):
    """A file that cannot be opened, or a window of it that cannot be read; the next read may well succeed."""


@runtime_checkable
class Raster(Protocol):
    """An open picture. Coordinates are level-0 pixels; sizes are (width, height)."""

    @property
    def path(self) -> Path: ...

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """Level 0 first, then coarser ones."""

    @property
    def resolution(self) -> Resolution | NoResolution:
        """Physical size of a level-0 pixel, or why it is not known and how to supply it."""

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself. May identify a patient: never copied into an output."""

    @property
    def unreadable(self) -> tuple[Window, ...]:
        """Parts of level 0 that could not be read so far; empty for a sound file."""

    def read(self, window: Window, out_size: tuple[int, int]) -> Pixels:
        """Resamples a window to ``out_size`` (width, height): uint8 [H, W, 3] with a validity mask [H, W].

        The pyramid level is the coarsest one at least as fine as wanted, so the result depends on nothing else.

        Raises:
            ReadError: the window cannot be read. The raster has reopened itself: other windows can still be read.
        """

    def thumbnail(self, max_px: int) -> Pixels:
        """The whole raster with at most ``max_px`` along its longer side; unreadable parts are not valid.

        Raises:
            ReadError: nothing of it can be read.
        """

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Reader(Protocol):
    """Opens the files of one domain."""

    @property
    def unit(self) -> Unit:
        """The unit of the domain's resolutions."""

    def open(self, path: str | Path, resolution: float | None = None) -> Raster:
        """Opens a file; ``resolution`` (unit per level-0 pixel, from a manifest or the config) overrides the file's.

        Raises:
            ReadError: it cannot be opened, with the reason.
        """

    def identify(self, path: Path) -> str | None:
        """Which picture a file belongs to: equal for the files of one series; None for a file clearly no picture."""


def check_reader(reader: Reader, file: str | Path) -> None:
    """Tests a reader on one sound file that has at least 8 x 8 pixels.

    Raises:
        AssertionError: a promise is broken; the message says which.
    """
    file = Path(file)
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
    shifted = raster.read(Window(-side, -side, 2 * side, 2 * side), (2 * side, 2 * side))
    assert not shifted.valid[:side].any(), "pixels outside of the raster are called valid"
    assert not shifted.valid[:, :side].any(), "pixels outside of the raster are called valid"
    assert np.array_equal(shifted.values[side:, side:], corner.values), "a window over the border shifts its pixels"
    outside = raster.read(Window(2 * width, 2 * height, side, side), (side, side))
    assert not outside.valid.any(), "a window outside of the raster is called valid"
