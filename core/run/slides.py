"""What verbs over slides share: which rasters, at which resolution, with which tiles; and words for a failure."""

from __future__ import annotations

import csv
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from core.files import atomic_write
from core.raster.coverage import Coverage, tissue_coverage
from core.raster.grid import TileGrid
from core.raster.listing import Input, list_inputs
from core.raster.patch import require_resolution
from core.raster.reader import Raster, Reader, ReadError
from core.types import Fate, Interpolation, Unit, UserError, Window

READ_THREADS = min(4, os.cpu_count() or 1)  # decoding leaves the interpreter's lock
AHEAD = 64  # tiles read before they are wanted: bounds memory

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Source:
    """One raster of a run."""

    input: Input
    resolution: float | None  # supplied by the manifest or the config


@dataclass(frozen=True)
class Tiled:
    """An open raster with its tiles."""

    raster: Raster
    grid: TileGrid
    coverage: Coverage


def sources(cfg: DictConfig, reader: Reader) -> tuple[list[Source], list[Fate], tuple[str, ...]]:
    """The rasters that ``input`` and ``manifest`` name, with the resolution supplied for each.

    ``input`` says which files; a manifest beside it only supplies resolutions. A manifest alone names the files too.
    ``data.resolution`` stands for every file that the manifest does not speak of.

    Returns:
        The sources, the fates of files a manifest names that are not there, and the names of files ignored because
        they are clearly no pictures.

    Raises:
        UserError: neither key is set, or what they name is not there.
    """
    supplied: dict[Path, float | None] = {}
    missing: list[Fate] = []
    ignored: tuple[str, ...] = ()
    root = Path()
    if cfg.manifest is not None:
        supplied, missing, root = _manifest_resolutions(cfg)
    if cfg.input is not None:
        listing = list_inputs(reader, Path(cfg.input))
        inputs, ignored, missing = listing.inputs, listing.ignored, []
    elif cfg.manifest is not None:
        if not all(path.is_relative_to(root) for path in supplied):
            root = Path(os.path.commonpath([path.parent for path in supplied]))
        inputs = tuple(Input(path, path.relative_to(root).as_posix()) for path in sorted(supplied))
    else:
        raise UserError("no slides are named", "input", "set input= to a slide or a folder, or manifest= to a table")
    default = cfg.data.resolution
    found = []
    for item in inputs:
        value = supplied.get(item.path.resolve())
        found.append(Source(item, default if value is None else value))
    return found, missing, ignored


def _manifest_resolutions(cfg: DictConfig) -> tuple[dict[Path, float | None], list[Fate], Path]:
    """Resolution of each picture, fates of missing ones, and the root, under which pictures keep their names."""
    from core.run.tables import manifest_options, read_manifest  # pandas: only where a manifest is given

    manifest = read_manifest(Path(cfg.manifest), manifest_options(cfg))
    values: dict[Path, float | None] = {}
    pictures = manifest.frame.dropna(subset="path")
    for path, value in zip(pictures["path"], pictures["resolution"], strict=True):
        values[(manifest.root / path).resolve()] = None if math.isnan(value) else float(value)
    return values, list(manifest.fates), manifest.root.resolve()


def shard(value: str | None, items: Sequence[T]) -> list[T]:
    """Every n-th item, from the i-th on, of a list that is the same for all shards.

    Args:
        value: ``i/n`` with i from 1 to n; None: everything.
        items: of the whole run.

    Raises:
        UserError: the value is nothing of the kind.
    """
    if value is None:
        return list(items)
    first, _, count = str(value).partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise UserError(f"shard is '{value}'", todo="write i/n with i from 1 to n, such as shard=1/4 to shard=4/4")
    return list(items[int(first) - 1 :: int(count)])


def open_tiled(
    reader: Reader,
    source: Source,
    tile_px: int,
    tile_resolution: float,
    overlap: float,
    min_coverage: float,
    unit: Unit | None = None,
) -> Tiled:
    """Opens a raster and finds its tiles with content; ``unit`` is that of ``tile_resolution`` where a model says it.

    Raises:
        UserError: it cannot be opened, has no credible resolution, is not brightfield, or cannot be read at all.
    """
    if source.input.problem:
        raise ReadError(source.input.problem, str(source.input.path))
    raster = reader.open(source.input.path, source.resolution)
    resolution = require_resolution(raster)
    if unit is not None and resolution.unit != unit:
        raise UserError(f"the model's resolution is in {unit}, the raster's in {resolution.unit}", str(raster.path))
    grid = TileGrid(raster.size, resolution, tile_px, tile_resolution, overlap)
    return Tiled(raster, grid, tissue_coverage(raster, grid, min_coverage))


def check_tiles(overlap: float, min_coverage: float) -> None:
    """A wrong key is a mistake of the run, not a fate of each slide.

    Raises:
        UserError: a value out of range.
    """
    if not 0 <= overlap < 1:
        raise UserError(f"tile.overlap is {overlap}; expected a share of the tile's side, at least 0 and below 1")
    if not 0 < min_coverage <= 1:
        raise UserError(f"tile.min_coverage is {min_coverage}; expected a share above 0 and at most 1")


def read_tiles(
    tiled: Tiled, indices: Sequence[int], interpolation: Interpolation = "bilinear"
) -> Iterator[tuple[int, np.ndarray | ReadError]]:
    """Reads tiles with threads that stay a little ahead; a broken tile gives its error, in its place.

    Args:
        tiled: an open raster.
        indices: numbers of tiles in the grid.
        interpolation: of the model that looks at them.

    Yields:
        (number, uint8 [s, s, 3] or the error), in the order of ``indices``.
    """

    def read(index: int) -> np.ndarray | ReadError:
        return read_tile(tiled, index, interpolation)

    with ThreadPoolExecutor(READ_THREADS) as pool:
        yield from ordered(pool, read, (int(index) for index in indices), AHEAD)


def spread(indices: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of some tiles, from the first on to the last: neighbours lie in one part of a file."""
    step = max(1, -(-len(indices) // most))
    return [int(index) for index in indices[::step]]


def read_tile(tiled: Tiled, index: int, interpolation: Interpolation) -> np.ndarray | ReadError:
    """One tile as uint8 [s, s, 3], or why it cannot be read."""
    size = (tiled.grid.tile_px, tiled.grid.tile_px)
    try:
        return tiled.raster.read(tiled.grid.window(index), size, interpolation).values
    except ReadError as error:
        return error


def ordered(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[tuple[T, R]]:
    """``pool.map`` would submit everything at once and keep every result: this holds at most ``ahead`` of them."""
    rest = iter(items)
    waiting: deque[tuple[T, Future[R]]] = deque()
    try:
        waiting.extend((item, pool.submit(work, item)) for item in islice(rest, ahead))
        while waiting:
            item, future = waiting.popleft()
            yield item, future.result()
            waiting.extend((item, pool.submit(work, item)) for item in islice(rest, 1))
    finally:
        for _, future in waiting:
            future.cancel()


def reason(error: Exception) -> str:
    """One line for a table: what was wrong and the cure. The path is a column of its own."""
    if isinstance(error, UserError):
        text = "; ".join(part for part in (error.what, error.todo) if part)
    else:
        text = f"unexpected {type(error).__name__}: {error}"
    return " ".join(text.split())


def describe(tiled: Tiled) -> dict[str, int | float | str]:
    """Columns of ``status.csv`` that any tiled raster has."""
    resolution = require_resolution(tiled.raster)
    return {
        "width": tiled.raster.size[0],
        "height": tiled.raster.size[1],
        "resolution_x": resolution.x,
        "resolution_y": resolution.y,
        "resolution_source": resolution.source,
        "grid_tiles": len(tiled.grid),
    }


def why_empty(tiled: Tiled) -> str:
    """Why a sound slide has no tile; empty where it has one."""
    if len(tiled.coverage.kept):
        return ""
    if tiled.raster.size[0] < tiled.grid.tile_width and tiled.raster.size[1] < tiled.grid.tile_height:
        return "smaller than one tile"
    causes = Counter(tiled.coverage.reason).most_common()
    return "no tile has enough content: " + ", ".join(f"{count} {cause}" for cause, count in causes)


def write_failed_tiles(folder: Path, failed: Sequence[tuple[str, Window, str]]) -> None:
    """Writes ``failed_tiles.csv`` (slide, place in level-0 pixels, reason) where there is a tile to name."""
    if failed:
        rows = [(name, place.x, place.y, place.width, place.height, why) for name, place, why in failed]
        write_rows(folder / "failed_tiles.csv", ("path", "x", "y", "w", "h", "reason"), rows)


def write_rows(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes a CSV, whole or not at all."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def print_fates(fates: Sequence[Fate], ignored: Sequence[str], restricted: bool = False) -> None:
    """What a person should know, as ``name: value`` lines; of restricted data without a name."""
    statuses = Counter(fate.status for fate in fates)
    print_refused(fates, restricted)
    if ignored and restricted:
        print(f"ignored: {len(ignored)} files that are no pictures")
    elif ignored:
        shown = ", ".join(ignored[:10]) + (" ..." if len(ignored) > 10 else "")
        print(f"ignored: {len(ignored)} files that are no pictures: {shown}")
    print(f"slides: {len(fates)} (ok {statuses['ok']}, partial {statuses['partial']}, refused {statuses['refused']})")
    print(f"tiles: {sum(int(fate.counts.get('tiles', 0)) for fate in fates)}")


def print_refused(fates: Sequence[Fate], restricted: bool) -> None:
    """A line for each file that is not whole; of restricted data their number alone."""
    bad = [fate for fate in fates if fate.status != "ok"]
    if bad and restricted:
        print(f"refused or partial: {len(bad)}")
    for fate in () if restricted else bad:
        print(f"{fate.status}: {fate.path}: {fate.reason}")


def progress_bar() -> Progress:
    """A bar over slides, on standard error so that figures on standard output stay clean."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
