"""The `embed` verb: features of every tile of slides, one HDF5 file a slide (``core.mil.features``)."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from core.mil.features import SUFFIX, DamagedFile, FeatureAttributes, Header, read_header, write_features
from core.models.encoder import ImageEncoder, encoder_of_entry, encoder_of_pair
from core.raster.patch import require_resolution
from core.raster.reader import Reader
from core.run.embedding import Embedded, embed_slides
from core.run.folder import WEIGHTS
from core.run.instantiate import instantiate
from core.run.load import load_config, load_model
from core.run.slides import (
    Source,
    Tiled,
    check_tiles,
    open_tiled,
    print_fates,
    progress_bar,
    reason,
    shard,
    sources,
    spread,
    write_failed_tiles,
)
from core.run.status import exit_status, write_status
from core.types import Fate, Geometry, Pixels, UserError, Window

SAMPLED_SLIDES, SAMPLED_BATCHES = 8, 4  # read and embedded in a dry run, to time it


@dataclass(frozen=True)
class Plan:
    """What the run asks of every slide."""

    encoder: ImageEncoder
    overlap: float
    min_coverage: float
    out: Path

    def settings(self) -> dict[str, Any]:
        """What all files of one folder have in common."""
        geometry = self.encoder.geometry
        return {
            "encoder": self.encoder.name,
            "weights_sha256": self.encoder.weights_sha256,
            "space": self.encoder.space,
            "precision": self.encoder.precision,
            "tile_px": geometry.size_px,
            "tile_resolution": geometry.resolution,
            "unit": geometry.unit,
            "overlap": float(self.overlap),
            "min_coverage": float(self.min_coverage),
        }

    def file(self, source: Source) -> Path:
        """Where a slide's features are."""
        return self.out / f"{source.input.name}{SUFFIX}"


def run(cfg: DictConfig, folder: Path) -> int:
    """Runs the verb.

    Args:
        cfg: ``run`` or ``encoder`` (a weights entry), ``input``, ``manifest``, ``reader``, ``data.resolution``,
            ``tile.{overlap, min_coverage}``, ``space``, ``out``, ``shard``, ``batch_size``, ``workers``, ``device``,
            ``precision``, ``dry_run``, ``debug``. The tile's size and resolution are the encoder's.
        folder: of the run; receives ``features/<slide>.h5`` (unless ``out`` is set), ``status.csv`` and, where a tile
            failed, ``failed_tiles.csv``.

    Returns:
        0, or 3 when a slide was refused or is partial.

    Raises:
        UserError: wrong keys, no usable encoder, nothing to do, an output folder that holds features of another kind,
            or an output that cannot be written.
    """
    reader: Reader = instantiate(cfg.reader)
    found, missing, ignored = sources(cfg, reader)
    todo, missing = shard(cfg.shard, found), shard(cfg.shard, missing)
    check_tiles(cfg.tile.overlap, cfg.tile.min_coverage)
    _check_numbers(cfg)
    encoder = load_encoder(cfg)
    out = Path(cfg.out) if cfg.out else folder / "features"
    plan = Plan(encoder, cfg.tile.overlap, cfg.tile.min_coverage, out)
    headers = {source: header for source in todo if (header := _finished(plan, source)) is not None}
    todo = [source for source in todo if source not in headers]
    print(f"encoder: {encoder.name} ({encoder.width} features, {encoder.precision} on {encoder.device})")
    if headers:
        print(f"done_before: {len(headers)} slides in '{plan.out}'")
    fates: dict[str, Fate] = {source.input.name: _fate(source, header) for source, header in headers.items()}
    tile = _opener(cfg, reader, plan)
    if cfg.dry_run:
        fates |= _dry_run(cfg, plan, todo, tile)
    else:
        for source, result in _with_bar(len(todo), _embed(cfg, plan, todo, tile)):
            fates[source.input.name] = result if isinstance(result, Fate) else _fate(source, result)
            if isinstance(result, Header):
                headers[source] = result
    every = [*missing, *(fates[name] for name in sorted(fates))]
    print_fates(every, ignored)
    if not cfg.dry_run:
        print(f"features: {plan.out}")
        write_failed_tiles(folder, _failed_tiles(headers))
        write_status(folder, every)
    return exit_status(every, cfg.allow_failures)


def load_encoder(cfg: DictConfig) -> ImageEncoder:
    """The tower that ``run`` or ``encoder`` names.

    Raises:
        UserError: neither or both are given; there is no such tower; it does not say how large a tile is.
    """
    if bool(cfg.run) == bool(cfg.encoder):
        raise UserError(
            "give either a trained run or an encoder" if cfg.run else "no encoder is named",
            todo="run=<folder of a trained run> (or latest), or encoder=<weights entry (YAML) of a local file>",
        )
    if cfg.encoder:
        encoder = encoder_of_entry(cfg.encoder, cfg.space, cfg.device, cfg.precision)
    else:
        model, config = load_model(cfg.run), load_config(cfg.run)
        image: Any = OmegaConf.to_container(config.model.image, resolve=True) if config.model.image else {}
        arguments = {"tower": "run", **image}
        encoder = encoder_of_pair(model, arguments, Path(cfg.run) / WEIGHTS, cfg.space, cfg.device, cfg.precision)
    if encoder.geometry.resolution is None:
        raise UserError(
            "the encoder was trained on pictures of unknown scale, so it cannot say how large a tile is",
            todo="choose one whose geometry has a resolution",
        )
    return encoder


def _check_numbers(cfg: DictConfig) -> None:
    for name, value in (("batch_size", cfg.batch_size), ("workers", cfg.workers)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; expected at least 1")


def _workers(cfg: DictConfig) -> int:
    if cfg.workers:
        return int(cfg.workers)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _finished(plan: Plan, source: Source) -> Header | None:
    """What an earlier run left of a slide; None where there is nothing, or nothing that is whole and of this slide.

    Raises:
        UserError: the file is not ours to replace: another encoder, other tiles, a newer version, another layout.
    """
    path = plan.file(source)
    if not path.exists():
        return None
    try:
        header = read_header(path)
    except DamagedFile:
        return None
    there = asdict(header.attributes)
    for key, value in plan.settings().items():
        if there[key] != value:
            raise UserError(
                f"'{path}' holds other features: its {key} is {there[key]}, this run's is {value}",
                todo="choose another folder with out=, or delete the old one",
            )
    resolution = source.resolution
    changed = resolution is not None and (there["resolution_x"], there["resolution_y"]) != (resolution, resolution)
    return None if changed or there["slide_bytes"] != _bytes(source) else header


def _bytes(source: Source) -> int:
    return source.input.path.stat().st_size if source.input.path.is_file() else 0


def _opener(cfg: DictConfig, reader: Reader, plan: Plan) -> Callable[[Source], Tiled | Exception]:
    geometry: Geometry = plan.encoder.geometry
    assert geometry.resolution is not None
    size_px, resolution = geometry.size_px, geometry.resolution

    def tile(source: Source) -> Tiled | Exception:
        """Whatever is wrong with one slide is its own fate and ends no run."""
        try:
            tiled = open_tiled(reader, source, size_px, resolution, plan.overlap, plan.min_coverage, geometry.unit)
        except UserError as error:
            return error
        except Exception as error:  # a file that no one foresaw; debug=true shows it
            if cfg.debug:
                raise
            return error
        # slides wait for their turn: without the picture that their coverage was decided on
        nothing = Pixels(np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.bool_))
        return replace(tiled, coverage=replace(tiled.coverage, thumbnail=nothing, mask=nothing.valid))

    return tile


def _embed(
    cfg: DictConfig, plan: Plan, todo: Sequence[Source], tile: Callable[[Source], Tiled | Exception]
) -> Iterator[tuple[Source, Header | Fate]]:
    """Embeds and writes; gives what was written, or why it was not."""
    for source, result in embed_slides(todo, tile, _kept, plan.encoder, cfg.batch_size, _workers(cfg)):
        if isinstance(result, Exception):
            yield source, Fate(source.input.name, "refused", reason(result), {"files": source.input.files})
            continue
        header = _header(plan, source, result)
        if len(result.failed) and not header.tiles:
            yield source, _fate(source, header)  # refused: there is nothing to write
            continue
        if not np.isfinite(result.features).all():
            what = (
                f"the encoder's features are not finite in {plan.encoder.precision}, stored as float16 (at most 65504)"
            )
            yield source, Fate(source.input.name, "refused", what, {"files": source.input.files})
            continue
        coordinates = _corners(result.tiled, result.indices)
        write_features(plan.file(source), coordinates, result.features, header.attributes, header.failed)
        yield source, header


def _kept(tiled: Tiled) -> np.ndarray:
    return tiled.coverage.kept


def _header(plan: Plan, source: Source, result: Embedded) -> Header:
    tiled, resolution = result.tiled, require_resolution(result.tiled.raster)
    causes = Counter(tiled.coverage.reason).most_common()
    empty = not len(result.indices) and not len(result.failed)
    attributes = FeatureAttributes(
        name=source.input.name,
        resolution_x=resolution.x,
        resolution_y=resolution.y,
        resolution_source=resolution.source,
        width=tiled.raster.size[0],
        height=tiled.raster.size[1],
        grid_tiles=len(tiled.grid),
        slide_bytes=_bytes(source),
        error=result.error,
        note="no tile has enough content: " + ", ".join(f"{n} {why}" for why, n in causes) if empty else "",
        **plan.settings(),
    )
    return Header(attributes, len(result.indices), _corners(tiled, result.failed))


def _corners(tiled: Tiled, indices: np.ndarray) -> np.ndarray:
    """[N, 2] int64, level-0 pixels: corners of tiles are fractions of a pixel in general, TRIDENT's layout is whole."""
    windows = [tiled.grid.window(int(index)) for index in indices]
    return np.array([(round(w.x), round(w.y)) for w in windows], np.int64).reshape(-1, 2)


def _fate(source: Source, header: Header) -> Fate:
    """The same for a slide that was embedded now and for one that was embedded before."""
    known, failed = header.attributes, len(header.failed)
    counts: dict[str, int | float | str] = {
        "width": known.width,
        "height": known.height,
        "resolution_x": known.resolution_x,
        "resolution_y": known.resolution_y,
        "resolution_source": known.resolution_source,
        "grid_tiles": known.grid_tiles,
        "tiles": header.tiles,
        "failed_tiles": failed,
        "files": source.input.files,
        "note": known.note,
    }
    if not failed:
        return Fate(source.input.name, "ok", "", counts)
    text = f"{failed} of {failed + header.tiles} tiles cannot be read: {known.error}"
    return Fate(source.input.name, "partial" if header.tiles else "refused", text, counts)


def _failed_tiles(headers: dict[Source, Header]) -> list[tuple[str, Window, str]]:
    rows = []
    for source in sorted(headers, key=lambda source: source.input.name):
        known = headers[source].attributes
        width, height = known.tile_size / known.resolution_x, known.tile_size / known.resolution_y
        rows += [
            (source.input.name, Window(int(x), int(y), width, height), known.error) for x, y in headers[source].failed
        ]
    return rows


def _with_bar(total: int, items: Iterator[tuple[Source, Header | Fate]]) -> Iterator[tuple[Source, Header | Fate]]:
    with progress_bar() as bar:
        task = bar.add_task("slides", total=total)
        for item in items:
            bar.advance(task)
            yield item


def _dry_run(
    cfg: DictConfig, plan: Plan, todo: Sequence[Source], tile: Callable[[Source], Tiled | Exception]
) -> dict[str, Fate]:
    """Counts the tiles of every slide, then embeds a sample of them on the real path to say how long all will take."""
    fates: dict[str, Fate] = {}
    good: list[tuple[Source, Tiled]] = []
    start = time.perf_counter()
    for source in todo:
        tiled = tile(source)
        if isinstance(tiled, Exception):
            fates[source.input.name] = Fate(source.input.name, "refused", reason(tiled), {"files": source.input.files})
            continue
        kept, nothing = tiled.coverage.kept, np.zeros(0, np.int64)
        header = _header(plan, source, Embedded(tiled, kept, np.zeros((0, 0), np.float16), nothing, ""))
        fates[source.input.name] = _fate(source, header)
        tiled.raster.close()
        if len(kept):
            good.append((source, tiled))
    opening = time.perf_counter() - start
    tiles = sum(len(tiled.coverage.kept) for _, tiled in good)
    print(f"hours: {(opening + tiles * _seconds_a_tile(cfg, plan, good)) / 3600:.3g}")
    print(f"gb: {tiles * (2 * plan.encoder.width + 16) / 1e9:.3g}")
    return fates


def _seconds_a_tile(cfg: DictConfig, plan: Plan, good: Sequence[tuple[Source, Tiled]]) -> float:
    if not good:
        return 0.0
    encoder, size_px = plan.encoder, plan.encoder.geometry.size_px
    encoder(np.zeros((cfg.batch_size, size_px, size_px, 3), np.uint8))  # the first batch of a process is slower
    some = dict(good[number] for number in spread(range(len(good)), SAMPLED_SLIDES))
    most = -(-SAMPLED_BATCHES * cfg.batch_size // len(some))

    def choose(tiled: Tiled) -> list[int]:
        return spread(tiled.coverage.kept.tolist(), most)

    start, count = time.perf_counter(), 0
    for _, result in embed_slides(list(some), some.__getitem__, choose, encoder, cfg.batch_size, _workers(cfg)):
        count += len(result.indices) if isinstance(result, Embedded) else 0
    # a batch costs the same however few of its tiles are real
    batches = -(-count // cfg.batch_size) * cfg.batch_size
    return (time.perf_counter() - start) / max(batches, 1)
