"""The `predict` verb: text prompts asked of every tile of a slide, as a picture, as areas, and as tables.

A run that learned from bags is applied by :mod:`core.run.bag_predict`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig

from core.evaluation.prompts import encode_prompts
from core.evaluation.zero_shot import softmax
from core.files import atomic_write
from core.raster.listing import Input
from core.raster.patch import require_resolution
from core.raster.reader import Reader, ReadError
from core.raster.regions import AreaWriter, merge_tiles
from core.raster.stitch import smooth, stitch
from core.run.folder import find
from core.run.instantiate import instantiate
from core.run.load import Model, learned_from_bags, load_pairs
from core.run.overlay import class_colours, write_overlay
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
)
from core.run.status import exit_status, write_status
from core.types import Fate, UserError

MAX_AREAS = 2000  # of a class: QuPath stays quick, and more are no longer areas but noise
OVERVIEW_PX = 1024
SAMPLE = 64  # tiles of a slide in a dry run, to time it
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Settings:
    """How a slide is asked; ``conf/predict.yaml`` holds the same values."""

    overlap: float = 0.0  # share of a tile's side
    min_coverage: float = 0.25  # share of a tile that must be content
    smoothing: bool = True  # mean of a tile and its four neighbours
    threshold: float = 0.0  # an area's tiles have at least this probability
    batch_size: int = 64


@dataclass(frozen=True)
class Maps:
    """What :func:`map_slide` wrote, and the answers themselves."""

    names: tuple[str, ...]  # of the classes
    tiles: pd.DataFrame  # x, y, w, h (level-0 pixels), coverage, probability.<class>
    overlay: Path  # PNG
    areas: Path
    summary: Mapping[str, object]  # the slide's row of predictions.csv


@dataclass(frozen=True)
class Classes:
    """What is asked."""

    names: tuple[str, ...]
    prompts: dict[str, list[str]]  # every text by class
    weights: np.ndarray  # [C, D] unit vectors


@dataclass(frozen=True)
class Asked:
    """A slide after every tile was asked."""

    tiled: Tiled
    indices: np.ndarray  # [N] numbers of the tiles that were read
    probabilities: np.ndarray  # [N, C]
    failed: int
    error: str  # of the first broken tile
    seconds: float  # that the whole slide takes, projected from the tiles that were asked


def run(cfg: DictConfig, folder: Path) -> int:
    """Runs the verb.

    Args:
        cfg: ``run``, ``input``, ``manifest``, ``prompts`` (class texts; null: the run's own), ``reader``, ``areas``
            (an :class:`AreaWriter`), ``data.resolution``, ``tile.{overlap, min_coverage}``, ``smoothing``,
            ``threshold``, ``batch_size``, ``dry_run``, ``debug``. The tile's size and resolution are the model's.
        folder: of the run; receives ``maps/<slide>.{png,geojson}``, ``tiles/<slide>.parquet``, ``predictions.csv``,
            ``prompts.json`` and ``status.csv``.

    Returns:
        0, or 3 when a slide was refused or is partial.

    Raises:
        UserError: wrong keys, no usable run, nothing to do, or an output that cannot be written.
    """
    if not cfg.run:
        raise UserError("no trained run is named", "run", "give run=<folder of a trained run> or run=latest")
    if learned_from_bags(cfg.run):
        from core.run.bag_predict import run as of_bags  # which writes its tables as this module does

        return of_bags(cfg, folder)
    if cfg.bags.features:
        raise UserError(f"the run '{cfg.run}' learned from pictures, not from bags", "bags.features", "leave it out")
    find(str(cfg.run), Path(cfg.output.root), cfg.trivium.domain)  # a sweep is an ensemble of runs over bags alone
    reader: Reader = instantiate(cfg.reader)
    writer: AreaWriter = instantiate(cfg.areas)
    todo, missing, ignored = sources(cfg, reader)
    model = load_pairs(cfg.run)
    settings = Settings(cfg.tile.overlap, cfg.tile.min_coverage, bool(cfg.smoothing), cfg.threshold, cfg.batch_size)
    _check(settings)
    classes = ask_classes(model, cfg.prompts)
    fates, rows, seconds = list(missing), [], 0.0
    with progress_bar() as bar:
        task = bar.add_task("slides", total=len(todo))
        for source in todo:
            asked = _fate_or_answers(cfg, settings, reader, source, model, classes)
            fates.append(_fate(source, asked))
            if isinstance(asked, Asked):
                seconds += asked.seconds
                if not cfg.dry_run and len(asked.indices):
                    maps = write_maps(folder, source.input.name, asked, classes, settings.threshold, writer)
                    rows.append({"path": source.input.name, **maps.summary})
                asked.tiled.raster.close()
            bar.advance(task)
    print_fates(fates, ignored)
    if cfg.dry_run:
        tiles = sum(int(fate.counts.get("tiles", 0)) for fate in fates)
        size = tiles * (5 + len(classes.names)) * 8 + 3 * OVERVIEW_PX**2 * sum(fate.status == "ok" for fate in fates)
        print(f"hours: {seconds / 3600:.3g}")
        print(f"gb: {size / 1e9:.3g}")  # at most: tables and pictures are compressed
    else:
        columns = ["path", "tiles", "failed_tiles", "prediction"]
        with atomic_write(folder / "predictions.csv") as temporary:
            (pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)).to_csv(temporary, index=False)
        with atomic_write(folder / "prompts.json") as temporary:
            temporary.write_text(json.dumps(classes.prompts, indent=1, ensure_ascii=False), encoding="utf-8")
        write_status(folder, fates)
    return exit_status(fates, cfg.allow_failures)


def ask_classes(model: Model, prompts: Sequence[str] | None) -> Classes:
    """Class weights from the user's prompts (each is a class) or from those kept with the run.

    Raises:
        UserError: fewer than two classes (a softmax over one says nothing), or the run kept none.
    """
    texts = {text: [text] for text in prompts} if prompts else dict(model.prompts or {})
    if not texts:
        raise UserError("the run keeps no prompts of its own", str(model.folder), "set prompts=[a ..., a ...]")
    if len(texts) < 2:
        raise UserError(f"prompts has one class, '{next(iter(texts))}'", "prompts",
                        "give at least two: probabilities say which of them fits best")  # fmt: skip
    encoded = encode_prompts(model.encoder, texts, ["{}"])
    return Classes(encoded.class_names, encoded.by_class(), encoded.weights())


def map_slide(
    model: Model,
    reader: Reader,
    slide: Path,
    prompts: Sequence[str],
    out: Path,
    settings: Settings | None = None,
    resolution: float | None = None,
) -> Maps:
    """Asks every tile of one slide and writes ``maps/`` and ``tiles/`` into a folder.

    Args:
        model: a trained run; the writer of areas is that of its config.
        reader: of its domain.
        slide: a file.
        prompts: one text a class, at least two; empty: the run's own.
        out: folder to write into.
        resolution: size of a level-0 pixel, where the slide does not say it; that of the training set is not used.

    Raises:
        UserError: the slide cannot be used, no tile of it holds content, or nothing can be written.
    """
    settings = settings or Settings()
    _check(settings)
    classes = ask_classes(model, prompts)
    asked = ask(reader, Source(Input(slide, slide.name), resolution), model, classes, settings)
    with asked.tiled.raster:
        if not len(asked.indices):
            why = asked.error or "no tile of it has enough content"
            raise UserError(f"there is nothing to map: {why}", str(slide))
        return write_maps(out, slide.name, asked, classes, settings.threshold, instantiate(model.config.areas))


def ask(
    reader: Reader, source: Source, model: Model, classes: Classes, settings: Settings, most: int | None = None
) -> Asked:
    """Asks the tiles of one slide, at most ``most``, spread over it.

    Raises:
        UserError: the model has no resolution, or the slide cannot be used.
    """
    geometry = model.geometry
    if geometry.resolution is None:
        raise UserError(
            "the model was trained on pictures of unknown scale, so it cannot say how large a tile is",
            todo="choose a run with a model.geometry.resolution",
        )
    began = time.perf_counter()
    tiled = open_tiled(
        reader, source, geometry.size_px, geometry.resolution, settings.overlap, settings.min_coverage, geometry.unit
    )
    kept = [int(index) for index in tiled.coverage.kept]
    wanted = kept if most is None else spread(kept, most)
    start = time.perf_counter()
    indices, cosines, errors = _cosines(tiled, wanted, model, classes.weights, settings.batch_size)
    seconds = start - began + (time.perf_counter() - start) / max(len(wanted), 1) * len(kept)
    probabilities = softmax(model.scale * cosines)
    if settings.smoothing and len(indices):
        probabilities = smooth(tiled.grid, indices, probabilities)
    return Asked(tiled, indices, probabilities, len(errors), errors[0] if errors else "", seconds)


def _fate_or_answers(
    cfg: DictConfig, settings: Settings, reader: Reader, source: Source, model: Model, classes: Classes
) -> Asked | Exception:
    """Whatever is wrong with one slide is its own fate and ends no run."""
    try:
        return ask(reader, source, model, classes, settings, SAMPLE if cfg.dry_run else None)
    except UserError as error:
        return error
    except Exception as error:  # a file that no one foresaw must not end a run over ten thousand; debug=true shows it
        if cfg.debug:
            raise
        return error


def _check(settings: Settings) -> None:
    check_tiles(settings.overlap, settings.min_coverage)
    if not 0 <= settings.threshold <= 1:
        raise UserError(f"threshold is {settings.threshold}; expected a probability, 0 to 1")
    if settings.batch_size < 1:
        raise UserError(f"batch_size is {settings.batch_size}; expected at least 1")


def _cosines(
    tiled: Tiled, wanted: Sequence[int], model: Model, weights: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Reads tiles ahead in threads while the model works: numbers [N], cosines [N, C], errors of broken tiles."""
    indices: list[int] = []
    parts: list[np.ndarray] = []
    errors: list[str] = []
    waiting: list[np.ndarray] = []

    def flush() -> None:
        if waiting:
            images = np.stack(waiting).transpose(0, 3, 1, 2)
            parts.append(model.embed_images(images) @ weights.T)
            waiting.clear()

    for index, pixels in read_tiles(tiled, wanted, model.geometry.interpolation):
        if isinstance(pixels, ReadError):
            errors.append(reason(pixels))
            continue
        indices.append(index)
        waiting.append(pixels)
        if len(waiting) == batch_size:
            flush()
    flush()
    cosines = np.concatenate(parts) if parts else np.empty((0, len(weights)), np.float32)
    return np.array(indices, np.int64), cosines, errors


def _fate(source: Source, asked: Asked | Exception) -> Fate:
    name = source.input.name
    if isinstance(asked, Exception):
        return Fate(name, "refused", reason(asked), {"files": source.input.files})
    total = len(asked.tiled.coverage.kept)
    counts = {
        **describe(asked.tiled),
        "tiles": total - asked.failed,
        "failed_tiles": asked.failed,
        "files": source.input.files,
    }
    if not asked.failed:
        return Fate(name, "ok", "", counts)
    text = f"{asked.failed} of {total} tiles cannot be read: {asked.error}"
    return Fate(name, "partial" if asked.failed < total else "refused", text, counts)


def write_maps(folder: Path, name: str, asked: Asked, classes: Classes, threshold: float, writer: AreaWriter) -> Maps:
    """Writes the picture, the areas and the tiles of one slide.

    Raises:
        UserError: something cannot be written.
    """
    tiled = asked.tiled
    windows = [tiled.grid.window(int(index)) for index in asked.indices]
    labels, best = asked.probabilities.argmax(1), asked.probabilities.max(1)
    thumbnail = tiled.raster.thumbnail(OVERVIEW_PX).values
    board = stitch(windows, asked.probabilities, tiled.raster.size, (thumbnail.shape[1], thumbnail.shape[0]))
    overlay, areas_path = folder / "maps" / f"{name}.png", folder / "maps" / f"{name}{writer.suffix}"
    resolution = require_resolution(tiled.raster)
    write_overlay(overlay, thumbnail, board, classes.names, resolution, tiled.raster.size, name)
    areas, dropped = merge_tiles(tiled.grid, asked.indices, np.where(best >= threshold, labels, -1), best, MAX_AREAS)
    for label, count in dropped.items():
        print(f"{name}: the {MAX_AREAS} largest areas of '{classes.names[label]}' are written, {count} smaller are not")
    writer.write(areas_path, tiled.raster, areas, classes.names, class_colours(len(classes.names)))
    place = pd.DataFrame([(w.x, w.y, w.width, w.height) for w in windows], columns=["x", "y", "w", "h"])
    answers = pd.DataFrame(asked.probabilities, columns=[f"probability.{text}" for text in classes.names])
    tiles = place.assign(coverage=tiled.coverage.fraction[asked.indices]).join(answers)
    write_tiles(folder / "tiles" / f"{name}.parquet", tiles)
    shares = np.bincount(labels, minlength=len(classes.names)) / len(labels)
    summary: dict[str, object] = {
        "tiles": len(labels),
        "failed_tiles": asked.failed,
        "prediction": classes.names[int(shares.argmax())],
        **{f"share.{text}": round(float(value), 6) for text, value in zip(classes.names, shares, strict=True)},
        **{str(column): round(float(value), 6) for column, value in answers.mean().items()},
    }
    return Maps(classes.names, tiles, overlay, areas_path, summary)


def write_tiles(path: Path, tiles: pd.DataFrame) -> None:
    """Writes the table of a slide's tiles, with the version of its schema."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pandas(tiles, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), b"schema_version": str(SCHEMA_VERSION).encode()}
    with atomic_write(path) as temporary:
        parquet.write_table(table.replace_schema_metadata(metadata), temporary)
