"""The `tile` verb: which part of each slide holds tissue, cut into a grid in physical units; the fate of every file."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from PIL import Image, ImageDraw

from core.files import atomic_write
from core.raster.reader import Reader, ReadError
from core.run.instantiate import instantiate
from core.run.slides import (
    Source,
    Tiled,
    check_tiles,
    describe,
    open_tiled,
    print_fates,
    progress_bar,
    read_tiles,
    reason,
    sources,
    spread,
    why_empty,
    write_failed_tiles,
    write_rows,
)
from core.run.status import exit_status, write_status
from core.types import Fate, UserError, Window

SAMPLE = 16  # tiles read of each slide in a dry run, to time it
OVERVIEW_PX = 1024
KEPT, FAILED, MASK = (0, 140, 90), (220, 30, 30), (0, 170, 255)
FIELDS = ("path", "x", "y", "w", "h", "coverage", "mpp")


@dataclass(frozen=True)
class Checked:
    """A tiled raster after its tiles were read."""

    tiled: Tiled
    read: tuple[int, ...]  # numbers of good tiles
    failed: tuple[int, ...]
    error: str  # of the first failed tile
    seconds: float  # that the whole raster takes; in a dry run projected from the tiles that were read


def run(cfg: DictConfig, folder: Path) -> int:
    """Runs the verb.

    Args:
        cfg: ``input``, ``manifest``, ``reader``, ``data.resolution``, ``tile.{size_px, resolution, overlap,
            min_coverage, verify}``, ``dry_run``, ``debug``.
        folder: of the run; receives ``tiles/<slide>.csv``, ``thumbnails/<slide>.png``, ``status.csv`` and, where a
            tile failed, ``failed_tiles.csv``.

    Returns:
        0, or 3 when a slide was refused or is partial.

    Raises:
        UserError: wrong keys, nothing to do, or an output that cannot be written.
    """
    reader: Reader = instantiate(cfg.reader)
    todo, missing, ignored = sources(cfg, reader)
    check_tiles(cfg.tile.overlap, cfg.tile.min_coverage)
    _check_size(cfg.tile.size_px, cfg.tile.resolution)
    fates: list[Fate] = list(missing)
    broken: list[tuple[str, Window, str]] = []
    seconds, size = 0.0, 0
    with progress_bar() as bar:
        task = bar.add_task("slides", total=len(todo))
        for source in todo:
            checked = _check(cfg, reader, source)
            fates.append(_fate(source, checked))
            if isinstance(checked, Checked):
                seconds += checked.seconds
                if cfg.dry_run:
                    size += _output_bytes(source, checked)
                else:
                    _write(folder, source, checked)
                broken += [
                    (source.input.name, checked.tiled.grid.window(index), checked.error) for index in checked.failed
                ]
                checked.tiled.raster.close()
            bar.advance(task)
    print_fates(fates, ignored)
    if cfg.dry_run:
        tiles = sum(int(fate.counts.get("tiles", 0)) for fate in fates)
        print(f"hours: {seconds / 3600:.3g}")
        print(f"gb: {size / 1e9:.3g}")
        print(f"decoded_gb: {tiles * cfg.tile.size_px**2 * 3 / 1e9:.3g}")  # of pixels, for whoever embeds them
    else:
        write_failed_tiles(folder, broken)
        write_status(folder, fates)
    return exit_status(fates, cfg.allow_failures)


def _check_size(size_px: int, resolution: float | None) -> None:
    if size_px < 1:
        raise UserError(f"tile.size_px is {size_px}; expected at least 1")
    if resolution is None or not resolution > 0:
        raise UserError(f"tile.resolution is {resolution}; expected the size of a tile's pixel in the domain's unit")


def _check(cfg: DictConfig, reader: Reader, source: Source) -> Checked | Exception:
    """Opens, tiles and reads one slide. Whatever is wrong with it is its own fate and ends no run."""
    try:
        tile, began = cfg.tile, time.perf_counter()
        tiled = open_tiled(reader, source, tile.size_px, tile.resolution, tile.overlap, tile.min_coverage)
        kept = [int(index) for index in tiled.coverage.kept]
        wanted = kept if tile.verify else []
        if cfg.dry_run:
            wanted = spread(wanted, SAMPLE)
        start = time.perf_counter()
        errors = {i: reason(result) for i, result in read_tiles(tiled, wanted) if isinstance(result, ReadError)}
        good = tuple(index for index in kept if index not in errors)
        first = next(iter(errors.values()), "")
        reading = (time.perf_counter() - start) / max(len(wanted), 1)
        seconds = start - began + reading * (len(kept) if tile.verify else 0)
        return Checked(tiled, good, tuple(errors), first, seconds)
    except UserError as error:
        return error
    except Exception as error:  # a file that no one foresaw must not end a run over ten thousand; debug=true shows it
        if cfg.debug:
            raise
        return error


def _fate(source: Source, checked: Checked | Exception) -> Fate:
    name = source.input.name
    if isinstance(checked, Exception):
        return Fate(name, "refused", reason(checked), {"files": source.input.files})
    counts = {
        **describe(checked.tiled),
        "tiles": len(checked.read),
        "failed_tiles": len(checked.failed),
        "files": source.input.files,
        "note": why_empty(checked.tiled),
    }
    if not checked.failed:
        return Fate(name, "ok", "", counts)
    total = len(checked.failed) + len(checked.read)
    text = f"{len(checked.failed)} of {total} tiles cannot be read: {checked.error}"
    return Fate(name, "partial" if checked.read else "refused", text, counts)


def _write(folder: Path, source: Source, checked: Checked) -> None:
    tiled, name = checked.tiled, source.input.name
    write_rows(folder / "tiles" / f"{name}.csv", FIELDS, [_row(source, tiled, index) for index in checked.read])
    with atomic_write(folder / "thumbnails" / f"{name}.png") as temporary:
        overview(tiled, checked.read, checked.failed).save(temporary)


def _row(source: Source, tiled: Tiled, index: int) -> tuple[object, ...]:
    window = tiled.grid.window(index)
    place = [round(value, 3) for value in (window.x, window.y, window.width, window.height)]
    path, coverage = str(source.input.path.resolve()), round(float(tiled.coverage.fraction[index]), 4)
    return (path, *place, coverage, tiled.grid.resolution.mean)


def _output_bytes(source: Source, checked: Checked) -> int:
    """What :func:`_write` would write: the picture is made and dropped, one row stands for all."""
    picture = io.BytesIO()
    overview(checked.tiled, checked.read, checked.failed).save(picture, "PNG")
    row = len(",".join(map(str, _row(source, checked.tiled, checked.read[-1]))).encode()) + 2 if checked.read else 0
    return picture.tell() + row * len(checked.read)


def overview(tiled: Tiled, kept: Sequence[int], failed: Sequence[int]) -> Image.Image:
    """The thumbnail with the outline of each kept tile (green), of each broken one (red), and the content in blue."""
    small = Image.fromarray(tiled.coverage.thumbnail.values)
    tint = Image.new("RGB", small.size, MASK)
    mask = Image.fromarray((tiled.coverage.mask * 60).astype(np.uint8))
    picture = Image.composite(tint, small, mask)
    scale = OVERVIEW_PX / max(picture.size)
    picture = picture.resize((max(1, round(small.width * scale)), max(1, round(small.height * scale))))
    fx, fy = picture.width / tiled.raster.size[0], picture.height / tiled.raster.size[1]
    draw = ImageDraw.Draw(picture)
    for indices, colour in ((kept, KEPT), (failed, FAILED)):
        for index in indices:
            window = tiled.grid.window(index)
            left, top = window.x * fx, window.y * fy
            right = max(left, min(left + window.width * fx, picture.width) - 1)
            bottom = max(top, min(top + window.height * fy, picture.height) - 1)
            draw.rectangle((left, top, right, bottom), outline=colour)
    return picture
