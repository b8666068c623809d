"""The contract of a reader; :func:`core.raster.check.check_reader` tests anybody's against it.

A :class:`Raster` is a picture with a pyramid and, where the file says so credibly, a physical resolution. It is cheap
to pickle (by path) and opens its file lazily in every process, so that it can be handed to workers of any start method.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from core.types import Interpolation, Level, NoResolution, Pixels, Resolution, Unit, UserError, Window


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

    def read(self, window: Window, out_size: tuple[int, int], interpolation: Interpolation = "bilinear") -> Pixels:
        """Resamples a window to ``out_size`` (width, height): uint8 [H, W, 3] with a validity mask [H, W].

        The pyramid level is the coarsest one at least as fine as wanted, so the result depends on nothing else. A
        window of whole pixels of a level at its own size is copied, whatever the interpolation.

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
        """Opens a file; ``resolution`` (unit per level-0 pixel, from a manifest or the config) overrides the file's
        and has the source ``core.types.SUPPLIED``.

        Raises:
            ReadError: it cannot be opened, with the reason.
        """


@runtime_checkable
class NamesUnreadable(Protocol):
    """A raster that reads around its broken parts and knows them."""

    @property
    def unreadable(self) -> tuple[Window, ...]:
        """Parts of level 0 that could not be read so far; empty for a sound file."""


@runtime_checkable
class Identifies(Protocol):
    """A reader that knows which files of a folder belong together, and which are none of its own."""

    def identify(self, path: Path) -> str | None:
        """Which picture a file belongs to: equal for the files of one series; None for a file clearly no picture."""
