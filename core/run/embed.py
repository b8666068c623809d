"""The `embed` verb: features of every tile of slides, one HDF5 file a slide (``core.mil.features``)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from core.data.sharing import is_restricted
from core.mil.features import Header
from core.models.encoder import ImageEncoder, encoder_of_entry, encoder_of_pair
from core.raster.reader import Reader
from core.run.embedding import Embedded, embed_slides
from core.run.feature_files import Plan, failed_tiles, fate_of, finished, header_of, keep
from core.run.folder import WEIGHTS
from core.run.inputs import phantom_manifest
from core.run.instantiate import instantiate
from core.run.literals import escape
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
from core.types import Fate, Pixels, UserError

SAMPLED_SLIDES, SAMPLED_BATCHES = 8, 4  # read and embedded in a dry run, to time it
Tile = Callable[[Source], Tiled | Exception]


def run(cfg: DictConfig, folder: Path) -> int:
    """Runs the verb.

    Args:
        cfg: ``run`` or ``encoder`` (a weights entry), ``input``, ``manifest``, ``reader``,
            ``data.{resolution, phantom, sharing}``, ``tile.{overlap, min_coverage}``, ``space``, ``out``, ``shard``,
            ``batch_size``, ``workers``, ``device``, ``precision``, ``dry_run``, ``debug``.
            The tile's size and resolution are the encoder's.
        folder: of the run; receives ``features/<slide>.h5`` (unless ``out`` is set), ``status.csv`` and, where a tile
            failed, ``failed_tiles.csv``.

    Returns:
        0, or 3 when a slide was refused or is partial.

    Raises:
        UserError: wrong keys, no usable encoder, nothing to do, an output folder that holds features of another kind,
            or an output that cannot be written.
    """
    reader: Reader = instantiate(cfg.reader)
    if cfg.data.phantom and not (cfg.input or cfg.manifest):
        cfg.manifest = escape(str(phantom_manifest(cfg)))
    found, missing, ignored = sources(cfg, reader)
    mine, missing = shard(cfg.shard, found), shard(cfg.shard, missing)
    check_tiles(cfg.tile.overlap, cfg.tile.min_coverage)
    _check_numbers(cfg)
    restricted = is_restricted(cfg.data.sharing)
    encoder = load_encoder(cfg)
    print(f"encoder: {encoder.name} ({encoder.width} features, {encoder.precision} on {encoder.device})")
    out = Path(cfg.out) if cfg.out else folder / "features"
    plan = Plan(encoder, cfg.tile.overlap, cfg.tile.min_coverage, out, cfg.data.sharing)
    headers = {source: header for source in mine if (header := finished(plan, source)) is not None}
    todo = [source for source in mine if source not in headers]
    if headers:
        print(f"done_before: {len(headers)} slides")
    fates = {source.input.name: fate_of(source, header) for source, header in headers.items()}
    tile, lines = _opener(cfg, reader, plan), [f"features: {out}"]
    if cfg.dry_run:
        new, lines = _dry_run(cfg, plan, todo, tile)
        fates |= new
    else:
        for source, result in _embed(cfg, plan, todo, tile):
            fates[source.input.name] = result if isinstance(result, Fate) else fate_of(source, result)
            if isinstance(result, Header):
                headers[source] = result
    every = [*missing, *(fates[name] for name in sorted(fates))]
    print_fates(every, ignored, restricted)
    print("\n".join(lines))
    if not cfg.dry_run:
        write_failed_tiles(folder, failed_tiles(headers))
        write_status(folder, every)
    return exit_status(every, cfg.allow_failures)


def load_encoder(cfg: DictConfig) -> ImageEncoder:
    """The tower that ``run`` or ``encoder`` names.

    Raises:
        UserError: neither or both are given; there is no such tower; it does not say how large a tile is.
    """
    if bool(cfg.run) == bool(cfg.encoder):
        raise UserError(
            "a trained run and an encoder are named" if cfg.run else "no encoder is named",
            todo="give run=<folder of a trained run> (or latest), or encoder=<weights entry (YAML) of a local file>",
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


def _opener(cfg: DictConfig, reader: Reader, plan: Plan) -> Tile:
    geometry = plan.encoder.geometry
    assert geometry.resolution is not None  # load_encoder refuses such an encoder
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
        # slides wait for their turn without the picture that their coverage was decided on
        nothing = Pixels(np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.bool_))
        return replace(tiled, coverage=replace(tiled.coverage, thumbnail=nothing, mask=nothing.valid))

    return tile


def _kept(tiled: Tiled) -> list[int]:
    kept: list[int] = tiled.coverage.kept.tolist()
    return kept


def _embed(cfg: DictConfig, plan: Plan, todo: Sequence[Source], tile: Tile) -> Iterator[tuple[Source, Header | Fate]]:
    """Embeds and writes; gives what was written of each slide, or why nothing was."""
    with progress_bar() as bar:
        task = bar.add_task("slides", total=len(todo))
        for source, result in embed_slides(todo, tile, _kept, plan.encoder, cfg.batch_size, _workers(cfg)):
            bar.advance(task)
            if isinstance(result, Exception):
                yield source, _refused(source, result)
            else:
                yield source, keep(plan, source, result)


def _refused(source: Source, error: Exception) -> Fate:
    return Fate(source.input.name, "refused", reason(error), {"files": source.input.files})


def _dry_run(cfg: DictConfig, plan: Plan, todo: Sequence[Source], tile: Tile) -> tuple[dict[str, Fate], list[str]]:
    """Counts the tiles of every slide, and embeds a sample of them on the real path to say how long all will take."""
    fates: dict[str, Fate] = {}
    good: list[tuple[Source, Tiled]] = []
    start, tiles = time.perf_counter(), 0
    for source in todo:
        tiled = tile(source)
        if isinstance(tiled, Exception):
            fates[source.input.name] = _refused(source, tiled)
            continue
        kept, nothing = tiled.coverage.kept, np.zeros(0, np.int64)
        header = header_of(plan, source, Embedded(tiled, kept, np.zeros((0, 0), np.float16), nothing, ""))
        fates[source.input.name] = fate_of(source, header)
        tiled.raster.close()
        if len(kept):
            good.append((source, tiled))
            tiles += len(kept)
    opening = time.perf_counter() - start
    seconds = opening + tiles * _seconds_a_tile(cfg, plan, good)
    return fates, [f"hours: {seconds / 3600:.3g}", f"gb: {tiles * (2 * plan.encoder.width + 16) / 1e9:.3g}"]


def _seconds_a_tile(cfg: DictConfig, plan: Plan, good: Sequence[tuple[Source, Tiled]]) -> float:
    if not good:
        return 0.0
    encoder, size_px = plan.encoder, plan.encoder.geometry.size_px
    encoder(np.zeros((cfg.batch_size, size_px, size_px, 3), np.uint8))  # the first batch of a process is slower
    some = dict(good[number] for number in spread(range(len(good)), SAMPLED_SLIDES))
    most = -(-SAMPLED_BATCHES * cfg.batch_size // len(some))

    def choose(tiled: Tiled) -> list[int]:
        return spread(_kept(tiled), most)

    start, count = time.perf_counter(), 0
    for _, result in embed_slides(list(some), some.__getitem__, choose, encoder, cfg.batch_size, _workers(cfg)):
        count += len(result.indices) if isinstance(result, Embedded) else 0
    batches = -(-count // cfg.batch_size)  # a batch costs the same however few of its tiles are real
    return (time.perf_counter() - start) / float(max(batches, 1) * cfg.batch_size)
