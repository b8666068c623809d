"""From slides to features: reading, batches that cross slide borders, and the tower, at the same time.

One thread opens the next slides while tiles of the present one are read by many; another keeps the device busy. Every
batch has the same size (the last is filled up), so that a tile's features do not depend on which slides came before: a
run that was interrupted gives what an undisturbed one gives.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from core.models.encoder import ImageEncoder
from core.raster.reader import ReadError
from core.run.slides import Source, Tiled, ordered, read_tile, reason

OPEN_AHEAD = 2  # slides opened before they are wanted
BATCHES_AHEAD = 2  # batches of tiles read before they are wanted: bounds memory


@dataclass(frozen=True)
class Embedded:
    """A slide after its tiles went through the tower."""

    tiled: Tiled
    indices: np.ndarray  # [T] int64: numbers of the tiles that were read, ascending
    features: np.ndarray  # [T, D] float16
    failed: np.ndarray  # [F] int64: numbers of the tiles that were not
    error: str  # of the first of them


def embed_slides(
    todo: Iterable[Source],
    tile: Callable[[Source], Tiled | Exception],
    choose: Callable[[Tiled], Sequence[int]],
    encoder: ImageEncoder,
    batch_size: int,
    workers: int,
) -> Iterator[tuple[Source, Embedded | Exception]]:
    """Embeds slides one after the other; what is wrong with one takes its place.

    Args:
        todo: the slides.
        tile: opens a slide and finds its tiles, or says why not; runs in a thread.
        choose: numbers of the tiles to embed.
        encoder: the tower.
        batch_size: tiles a batch.
        workers: threads that read tiles (decoding leaves the interpreter's lock).

    Yields:
        Each slide, in the order of ``todo``.
    """
    open_slides: deque[_Slide] = deque()

    def tiles(opener: ThreadPoolExecutor) -> Iterator[tuple[_Slide, int]]:
        for source, tiled in ordered(opener, tile, todo, OPEN_AHEAD):
            wanted = np.asarray([] if isinstance(tiled, Exception) else choose(tiled), np.int64)
            slide = _Slide(source, tiled, wanted, np.empty((len(wanted), encoder.width), np.float16), len(wanted))
            open_slides.append(slide)
            yield from ((slide, position) for position in range(len(wanted)))

    def read(item: tuple[_Slide, int]) -> np.ndarray | ReadError:
        slide, position = item
        assert isinstance(slide.tiled, Tiled)
        try:
            return read_tile(slide.tiled, int(slide.wanted[position]), encoder.geometry.interpolation)
        except Exception as error:  # a decoder's own failure costs the tile, not a run over ten thousand slides
            return ReadError(reason(error))

    with ThreadPoolExecutor(1) as opener, ThreadPoolExecutor(workers) as readers, ThreadPoolExecutor(1) as device:
        batch = _Batch(encoder, batch_size, device)
        for (slide, position), pixels in ordered(readers, read, tiles(opener), BATCHES_AHEAD * batch_size):
            if isinstance(pixels, ReadError):
                slide.fail(position, reason(pixels))
            else:
                batch.add(slide, position, pixels)
            yield from _done(open_slides)
        batch.finish()
        yield from _done(open_slides)


@dataclass
class _Slide:
    """A slide whose tiles are under way."""

    source: Source
    tiled: Tiled | Exception
    wanted: np.ndarray  # [N] int64
    features: np.ndarray  # [N, D] float16, filled as batches come back
    left: int
    failed: list[int] = field(default_factory=list)  # positions in ``wanted``
    error: str = ""

    def fail(self, position: int, why: str) -> None:
        self.failed.append(position)
        self.error = self.error or why
        self.left -= 1

    def result(self) -> Embedded | Exception:
        if isinstance(self.tiled, Exception):
            return self.tiled
        good = np.ones(len(self.wanted), np.bool_)
        good[self.failed] = False
        return Embedded(self.tiled, self.wanted[good], self.features[good], self.wanted[~good], self.error)


class _Batch:
    """Collects tiles; a full batch goes to the device while the next one is collected."""

    def __init__(self, encoder: ImageEncoder, size: int, device: ThreadPoolExecutor) -> None:
        self.encoder, self.size, self.device = encoder, size, device
        self.places: list[tuple[_Slide, int]] = []
        self.pixels: list[np.ndarray] = []
        self.running: tuple[list[tuple[_Slide, int]], Future[np.ndarray]] | None = None

    def add(self, slide: _Slide, position: int, pixels: np.ndarray) -> None:
        self.places.append((slide, position))
        self.pixels.append(pixels)
        if len(self.places) == self.size:
            self._send()

    def finish(self) -> None:
        if self.places:
            self._send()
        self._collect()

    def _send(self) -> None:
        images = np.zeros((self.size, *self.pixels[0].shape), np.uint8)
        np.stack(self.pixels, out=images[: len(self.pixels)])
        future = self.device.submit(self.encoder, images)
        places, self.places, self.pixels = self.places, [], []
        self._collect()
        self.running = places, future

    def _collect(self) -> None:
        if self.running is None:
            return
        places, future = self.running
        self.running = None
        features = future.result()
        with np.errstate(over="ignore"):  # beyond float16 is infinite, and writing such a slide is refused by name
            rows = features[: len(places)].astype(np.float16)
        for (slide, position), row in zip(places, rows, strict=True):
            slide.features[position] = row
            slide.left -= 1


def _done(open_slides: deque[_Slide]) -> Iterator[tuple[Source, Embedded | Exception]]:
    while open_slides and open_slides[0].left == 0:
        slide = open_slides.popleft()
        yield slide.source, slide.result()
        if isinstance(slide.tiled, Tiled):
            slide.tiled.raster.close()
