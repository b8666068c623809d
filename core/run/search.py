"""The `search` verb: the tiles of a cohort nearest to a text or a picture, as a page, a table and areas."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from omegaconf import DictConfig, OmegaConf, open_dict

from core.data.sharing import RESTRICTED, WITHHELD, is_restricted, opaque, sharing_key
from core.files import sha256
from core.raster.patch import cut
from core.raster.reader import Reader, ReadError
from core.raster.regions import Area, AreaWriter
from core.report.hits import PLACE, write_hits
from core.run.embed import load_encoder
from core.run.folder import WEIGHTS
from core.run.instantiate import instantiate
from core.run.load import config_with_towers, load_config, load_pairs
from core.run.overlay import class_colours
from core.run.slides import Source, print_refused, progress_bar, reason, sources
from core.run.status import exit_status, write_status
from core.run.tables import manifest_options, read_manifest
from core.search.index import (
    FOLDER,
    Changes,
    Index,
    Tower,
    annotate,
    estimate,
    feature_files,
    is_index,
    open_index,
    plan,
    update,
)
from core.search.query import hits, nearest, recall, select
from core.search.shards import unit
from core.types import Fate, UserError, Window


def run(cfg: DictConfig, folder: Path) -> int:
    """Runs the verb.

    Args:
        cfg: ``index``, ``query`` or ``example`` (neither: the index is only brought up to date), ``run`` (or
            ``encoder``, for an example), ``device``, ``precision``, ``out``, ``input``, ``manifest``, ``reader``,
            ``areas`` (an :class:`AreaWriter`), ``data.{resolution, sharing}``, ``search.{count, per_slide,
            where, check}``, ``thumbnail_px``, ``seed``, ``dry_run``.
        folder: of the run; receives ``hits.csv``, ``hits.html``, ``hits/<slide>.geojson`` and ``status.csv``. Of
            restricted slides hits have opaque names, and neither pictures nor areas nor columns of the manifest.

    Returns:
        0, or 3 when a feature file was refused or a slide with hits cannot be read.

    Raises:
        UserError: wrong keys, no usable index or run, features of another tower, an output that cannot be written.
    """
    reader: Reader = instantiate(cfg.reader)
    writer: AreaWriter = instantiate(cfg.areas)
    _check(cfg)
    restricted = is_restricted(cfg.data.sharing)
    if cfg.dry_run:
        return _dry_run(cfg, restricted)
    index = _up_to_date(cfg)
    fates = index.fates()
    if cfg.input is not None or cfg.manifest is not None:
        found, missing, _ = sources(cfg, reader)
        fates += missing
        names = _by_slide(index, found)
        index = annotate(index, {slide: str(source.input.path.resolve()) for slide, source in names.items()},
                         _columns(cfg, names))  # fmt: skip
    if restricted:
        index = replace(index, slides=index.slides.assign(sharing=RESTRICTED))
    print(f"index: {index.folder}")
    print(f"indexed_slides: {len(index.slides)}")
    print(f"indexed_tiles: {len(index)}")
    if cfg.query or cfg.example:
        fates += _answer(cfg, folder, reader, writer, index)
    print_refused(fates, _any_restricted(index))
    write_status(folder, fates)
    return exit_status(fates, cfg.allow_failures)


def _any_restricted(index: Index) -> bool:
    return bool((index.slides["sharing"] == RESTRICTED).any())


def _check(cfg: DictConfig) -> None:
    if not cfg.index:
        raise UserError("no index is named", "index", "give index=<folder of feature files, or an index>")
    if not Path(cfg.index).is_dir():
        raise UserError(f"index '{cfg.index}' is no folder", "index", "give a folder of feature files, or an index")
    if cfg.query and cfg.example:
        raise UserError("query and example are both given", "example", "ask for one of them")
    if cfg.query and not cfg.run:
        raise UserError("no trained run is named", "run", "give the run whose tower made the features, or run=latest")
    if cfg.run:
        config_with_towers(cfg.run)  # before the index is built
    if cfg.search.where is not None and not isinstance(cfg.search.where, DictConfig):
        raise UserError(f"search.where is '{cfg.search.where}'", todo="write search.where={column: value}")
    for name in ("count", "per_slide"):
        value = cfg.search[name]
        if not (value is None and name == "per_slide") and (not isinstance(value, int) or value < 1):
            raise UserError(f"search.{name} is {value}; expected at least 1")


def _place(cfg: DictConfig) -> Path:
    """Folder of the index."""
    if is_index(cfg.index):
        return Path(cfg.index)
    return Path(cfg.out) if cfg.out else Path(cfg.index) / FOLDER


def _up_to_date(cfg: DictConfig) -> Index:
    """The index; brought up to its features where these are named, and as it is where it is named itself."""
    if is_index(cfg.index):
        return open_index(cfg.index)
    start = time.perf_counter()
    index, changes = update(_place(cfg), cfg.index, cfg.seed)
    print(f"feature_files: {_counts(changes)}")
    print(f"index_seconds: {time.perf_counter() - start:.3g}")
    return index


def _counts(changes: Changes) -> str:
    gone = len(changes.removed)
    return f"new {len(changes.added)}, changed {len(changes.changed)}, gone {gone}, kept {changes.kept}"


def _by_slide(index: Index, found: Sequence[Source]) -> dict[str, Source]:
    """The file of each slide: by its whole name, else by the last part of it where that names one slide alone."""
    whole = {one.input.name: one for one in found}
    last: dict[str, Source | None] = {}
    for one in found:
        name = one.input.path.name
        last[name] = None if name in last else one
    slides = index.slides["slide"]
    parts = slides.map(lambda name: Path(name).name)
    single = parts.map(parts.value_counts()) == 1
    matched = {}
    for slide, part, alone in zip(slides, parts, single, strict=True):
        source: Source | None = whole.get(slide) or (last.get(part) if alone else None)
        if source is not None:
            matched[str(slide)] = source
    print(f"slides_found: {len(matched)} of {len(slides)}")
    return matched


def _columns(cfg: DictConfig, names: Mapping[str, Source]) -> pd.DataFrame:
    """What the manifest says of each slide, indexed by its name: columns with one value a slide."""
    if cfg.manifest is None:
        return pd.DataFrame()
    manifest = read_manifest(Path(cfg.manifest), manifest_options(cfg))
    slides = {source.input.path.resolve(): slide for slide, source in names.items()}
    frame = manifest.frame.dropna(subset="path")
    of_row = [slides.get((manifest.root / path).resolve()) for path in frame["path"]]
    plain = frame.drop(columns=["row", "captions", "concepts", "resolution", *PLACE, "path"], errors="ignore")
    plain = plain.loc[:, plain.notna().any()]
    # rows of slides that have no features fall out
    groups = plain.groupby(pd.Series(of_row, plain.index, dtype=object))
    single = [str(name) for name in plain.columns if (groups[str(name)].nunique(dropna=False) <= 1).all()]
    return groups[single].first()


def _answer(cfg: DictConfig, folder: Path, reader: Reader, writer: AreaWriter, index: Index) -> list[Fate]:
    """Asks the index, prints and writes the answer; the fates of slides whose tiles cannot be shown."""
    query, example = _query(cfg, reader, index)
    where: Any = OmegaConf.to_container(cfg.search.where, resolve=True) if cfg.search.where else None
    chosen = select(index, where) if where else None
    start = time.perf_counter()
    table = hits(index, query, cfg.search.count, chosen, cfg.search.per_slide)
    print(f"search_seconds: {time.perf_counter() - start:.3g}")
    restricted = _any_restricted(index)
    words = "withheld" if restricted else _words(where or {})
    facts = {
        "index": f"{len(index)} tiles of {len(index.slides)} slides, by {index.tower.encoder if index.tower else ''}",
        **({} if restricted else {"asked with": str(cfg.run or cfg.encoder)}),
        "filter": f"{words} ({int(chosen.sum())} slides)" if chosen is not None else "none",
    }
    if cfg.search.check:
        found, exact = (nearest(index, query[None], 10, chosen, exact=every)[0] for every in (False, True))
        share = recall(found, exact)
        print(f"search_recall_at_10: {share:.3f}")
        facts["recall at 10"] = f"{share:.3f} of what exact search finds"
    print(f"hits: {len(table)}")
    asked = cfg.query or ("a picture" if restricted else Path(cfg.example).name)
    thumbnails, areas, fates = _show(cfg, folder, reader, writer, table, asked)
    synthetic = bool(cfg.run) and load_config(cfg.run).get("manifest") is None
    notes = [*(["tower trained on synthetic data"] if synthetic else []), *([WITHHELD] if restricted else [])]
    shown, withheld = shareable_hits(table.drop(columns="path"))
    page = write_hits(folder, shown, thumbnails, asked, None if restricted else example, facts, areas, notes, withheld)
    print(f"page: {page}")
    return fates


def shareable_hits(table: pd.DataFrame) -> tuple[pd.DataFrame, set[str]]:
    """Hits without what names a restricted slide.

    Args:
        table: of :func:`core.search.query.hits`.

    Returns:
        The table without the column sharing. Of a restricted slide only place, similarity, label and split stay, and
        its name is opaque: an integer that a manifest has may be a record number, and so may a fraction that was one.
        And those opaque names.
    """
    hidden = table["sharing"] == RESTRICTED
    shown = table.drop(columns="sharing")
    if not hidden.any():
        return shown, set()
    key = sharing_key()
    quoting = [name for name in shown.columns if name not in (*PLACE, "label", "split")]
    shown = shown.astype(dict.fromkeys(quoting, object))
    shown.loc[hidden, quoting] = None
    shown.loc[hidden, "slide"] = shown.loc[hidden, "slide"].map(lambda name: opaque(str(name), key))
    return shown, set(shown.loc[hidden, "slide"])


def _words(where: Mapping[str, Any]) -> str:
    values = {name: value if isinstance(value, list) else [value] for name, value in where.items()}
    return ", ".join(f"{name} {' or '.join(map(str, some))}" for name, some in values.items())


def _query(cfg: DictConfig, reader: Reader, index: Index) -> tuple[np.ndarray, np.ndarray | None]:
    """The vector that is asked, float32 [D]; and the picture it is of.

    Raises:
        UserError: the tower did not make the features, or they are not in the space of its texts.
    """
    tower = index.tower
    assert tower is not None
    if cfg.query:
        if tower.space != "projected":
            raise UserError(f"the features of the index are '{tower.space}', not in the space of texts",
                            str(index.folder), "ask by example=, or embed with run= and space=projected")  # fmt: skip
        own = sha256(Path(cfg.run) / WEIGHTS)
        if own != tower.weights_sha256:
            raise _other(tower, f"whose weights are {tower.weights_sha256[:12]}", f"weights {own[:12]}", cfg.run)
        return load_pairs(cfg.run).embed_texts([cfg.query])[0], None
    with open_dict(cfg):
        cfg.space = tower.space
    encoder = load_encoder(cfg)
    if encoder.name != tower.encoder:
        raise _other(tower, "", f"'{encoder.name}'", cfg.run or cfg.encoder)
    with reader.open(Path(cfg.example), cfg.data.resolution) as raster:
        patch = cut(raster, None, encoder.geometry)
    outside = 1 - float(patch.valid.mean())
    if outside > 0:
        print(f"example: {100 * outside:.0f} % of the tile's field of view lie outside of the picture")
    return unit(encoder(np.stack([patch.pixels])))[0], patch.pixels


def _other(tower: Tower, detail: str, own: str, where: str) -> UserError:
    """Vectors of different towers have nothing to do with each other."""
    made = f"'{tower.encoder}'{', ' if detail else ''}{detail}"
    return UserError(f"the index was made by the tower {made}; this one has {own}", where,
                     "give the run (or encoder) that made the features, or embed with this one")  # fmt: skip


def _show(
    cfg: DictConfig, folder: Path, reader: Reader, writer: AreaWriter, table: pd.DataFrame, asked: str
) -> tuple[list[np.ndarray | None], dict[str, str], list[Fate]]:
    """Cuts the tiles out of their slides and writes areas for the viewer, slide by slide."""
    pictures: list[np.ndarray | None] = [None] * len(table)
    areas: dict[str, str] = {}
    fates = []
    if table["path"].isna().any():
        print("thumbnails: slides are not known; give input= or manifest= once, the index keeps their places")
    with progress_bar() as bar:
        task = bar.add_task("slides", total=table["slide"].nunique())
        for slide, rows in table.groupby("slide", sort=False):
            path = rows["path"].iloc[0]
            if isinstance(path, str) and rows["sharing"].iloc[0] != RESTRICTED:
                target = Path("hits") / f"{slide}{writer.suffix}"
                try:
                    windows = [Window(*place) for place in rows[["x", "y", "w", "h"]].to_numpy(float).tolist()]
                    with reader.open(Path(path)) as raster:
                        for position, window in zip(rows.index, windows, strict=True):
                            size = (cfg.thumbnail_px, round(cfg.thumbnail_px * window.height / window.width))
                            pictures[int(position)] = raster.read(window, size).values
                        boxes = [
                            Area(0, shapely.box(w.x, w.y, w.x + w.width, w.y + w.height), 1, float(similarity))
                            for w, similarity in zip(windows, rows["similarity"], strict=True)
                        ]
                        writer.write(folder / target, raster, boxes, [asked], class_colours(1))
                    areas[str(slide)] = target.as_posix()
                except ReadError as error:
                    fates.append(Fate(str(slide), "partial", f"its hits have no picture: {reason(error)}"))
            bar.advance(task)
    return pictures, areas, fates


def _dry_run(cfg: DictConfig, restricted: bool) -> int:
    """Counts what an update would do and times a small one."""
    if is_index(cfg.index):
        index = open_index(cfg.index)
        print(f"indexed_slides: {len(index.slides)}\nindexed_tiles: {len(index)}")
        return 0
    index = open_index(_place(cfg))
    changes = plan(index, feature_files(Path(cfg.index)))
    print(f"feature_files: {_counts(changes)}")
    tiles, gigabytes, hours, fates = estimate(Path(cfg.index), [*changes.added, *changes.changed])
    print_refused(fates, restricted)
    print(f"tiles: {tiles}\nhours: {hours:.3g}\ngb: {gigabytes:.3g}")
    return exit_status(fates, cfg.allow_failures)
