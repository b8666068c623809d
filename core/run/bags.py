"""The road of bags: features of slides that ``embed`` (or another program) wrote, an aggregator, a task over bags."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig

from core.data.audit import OF_CLASSES, audit, refuse
from core.data.columns import SPLITS
from core.data.manifest import Manifest
from core.data.sharing import is_restricted
from core.evaluation.bag_subject import BagSubject
from core.evaluation.bag_texts import TextsOfBags
from core.evaluation.tables import write_results
from core.mil.aggregator import Aggregator
from core.mil.bags import Bag
from core.mil.data import BagDataModule
from core.mil.features import FeatureLayout
from core.mil.labels import bag_labels
from core.mil.standardise import Standardised
from core.mil.tasks.alignment import TextTask
from core.mil.tasks.task import BagTask
from core.mil.teachable import teachable
from core.run.bag_facts import facts_of, write_facts
from core.run.bag_texts import bag_texts
from core.run.evaluate import conclude, shareable
from core.run.inputs import phantom_manifest, with_splits
from core.run.instantiate import instantiate
from core.run.road import Prepared
from core.run.slides import print_refused
from core.run.status import write_status
from core.run.tables import manifest_options, read_manifest
from core.types import Fate, UserError


@dataclass(frozen=True)
class Slides:
    """Reads the features of a slide by its id in the manifest; picklable, because ranks are spawned."""

    layout: FeatureLayout
    files: Mapping[str, tuple[str, Path]]  # by the manifest's id: name among the features, and file
    resolution: Mapping[str, float]  # of slides whose features do not say it

    def __call__(self, id: str) -> Bag:
        if id not in self.files:
            raise UserError(f"slide '{id}' has no features", todo="embed it: embed manifest=... out=<that folder>")
        name, path = self.files[id]
        return replace(self.layout.read(path, name, self.resolution.get(id)), id=id)


def prepare(cfg: DictConfig, folder: Path) -> Prepared:
    """Reads manifest and features of a config and builds its task.

    Raises:
        UserError: anything the user can mend; see the message.
    """
    if not cfg.bags.features:
        raise UserError("there are no features", "bags.features", "give bags.features=<folder>, as embed writes them")
    if cfg.data.external:
        raise UserError("a second set of bags cannot be evaluated", "data.external", "leave it out")
    if cfg.bags.of not in ("group", "id"):
        raise UserError(f"bags.of is '{cfg.bags.of}'", "bags.of", "group: a bag a patient; id: a bag a slide")
    path = Path(cfg.manifest) if cfg.manifest else phantom_manifest(cfg)
    manifest = read_manifest(path, manifest_options(cfg), pictures=False)
    manifest = with_splits(cfg, manifest, folder)
    findings = audit(manifest, hash_images=False)
    refuse(findings, str(manifest.path))
    names = class_names(cfg, manifest)
    columns = list(cfg.bags.columns)
    if not (names and columns == ["label"]):  # the label is not what is learned
        findings = [finding for finding in findings if finding.check not in OF_CLASSES]
    labels = bag_labels(manifest, columns, dict.fromkeys(columns, names) if names else None)
    data = BagDataModule(
        manifest,
        slides_of(cfg, manifest),
        partial(_sampler, cfg),
        labels=labels,
        bag_of=cfg.bags.of,
        workers=cfg.data.workers,
        cache_gib=cfg.data.cache_gib,
    )
    fates = data.prepare()
    if not data.ids("test"):
        reasons = Counter(fate.reason for fate in fates if fate.status != "ok").most_common(1)
        reason = reasons[0][0] if reasons else "no row has the split 'test'"
        raise UserError(f"no test bag can be used: {reason}", str(manifest.path))
    taught = teachable(data.labels("train"), names)
    refuse(taught, str(manifest.path))
    restricted = is_restricted(cfg.data.sharing)
    for finding in [*findings, *taught]:
        print(finding.line(restricted))
    print_refused(fates, restricted)
    torch.manual_seed(cfg.seed)
    width = int(data.bag(data.ids("train")[0]).features.shape[1])
    task = build_task(cfg, width, names)
    for split in SPLITS:
        task.aggregator.require_room(data.ids(split), data.lengths(split).tolist())
    if isinstance(task, TextTask):
        data.texts = bag_texts(cfg, manifest, task.model.tokenizer)
    task.prepare(data.labels("train"), data.ids("train"), data.units("train"))
    if type(task.aggregator).prepare is not Aggregator.prepare:  # the tiles cost a second reading of all training bags
        task.aggregator.prepare(data.tiles(cfg.bags.prepare_tiles, cfg.seed), cfg.seed)
    return Prepared(task, data, fates, lambda: finish(cfg, folder, data, task, names, fates))


def slides_of(cfg: DictConfig, manifest: Manifest) -> Slides:
    """The feature files of a config."""
    layout: FeatureLayout = instantiate(cfg.bags.layout)
    frame, found = manifest.frame, layout.find(Path(cfg.bags.features))
    files: dict[str, tuple[str, Path]] = {}
    for id, path in zip(frame["id"], frame["path"], strict=True):
        name = next((name for name in _names(str(id), manifest.root / str(path)) if name in found), None)
        if name is not None:
            files[str(id)] = name, found[name]
    if not files:
        raise UserError(
            f"no slide of the manifest has features: it names '{frame['id'].iloc[0]}' and the folder holds "
            f"'{next(iter(found))}'",
            str(cfg.bags.features),
            "name slides as their features are: column id, or the end of path, with or without its ending",
        )
    owners = Counter(name for name, _ in files.values())
    twice = next((name for name, count in owners.items() if count > 1), None)
    if twice is not None:
        ids = ", ".join(id for id, (name, _) in files.items() if name == twice)
        raise UserError(
            f"the features '{twice}' would be those of several rows: {ids}",
            str(cfg.bags.features),
            "give each slide a name of its own, or manifest_options.one_per=path where a slide has several rows",
        )
    known = frame.set_index("id").get("resolution", pd.Series(dtype=float)).dropna()
    resolution = {str(name): float(value) for name, value in known.items()}
    return Slides(layout, files, resolution)


def _names(id: str, path: Path) -> Iterator[str]:
    """What the features of a slide may be called, likeliest first.

    ``embed`` names them after the slide's path below what all its slides have in common, with links followed, and a
    later table may have more or less in common; other programs after its id or its name without the ending.
    """
    yield id
    for whole in dict.fromkeys((Path(os.path.abspath(path)), path.resolve())):
        for start in range(1, len(whole.parts)):
            tail = Path(*whole.parts[start:])
            yield tail.as_posix()
            yield tail.with_suffix("").as_posix()


def class_names(cfg: DictConfig, manifest: Manifest) -> tuple[str, ...]:
    """Classes in the order of their numbers: those of the config (grades have an order), else all labels, sorted."""
    if cfg.bags.classes is None:
        return ()
    if cfg.bags.classes != "auto":
        return tuple(str(name) for name in cfg.bags.classes)
    column = next(iter(cfg.bags.columns))
    if column not in manifest.frame or not manifest.frame[column].notna().any():
        raise UserError(f"no row of the manifest has a {column}", str(manifest.path),
                        f"fill that column, or name it by manifest_options.columns={{{column}: ...}}")  # fmt: skip
    return tuple(sorted({str(value) for value in manifest.frame[column].dropna()}))


def build_task(cfg: DictConfig, in_features: int, classes: tuple[str, ...]) -> BagTask:
    """The untrained task: keys of aggregator and task that a config leaves open are filled in."""
    known = {"in_features": in_features, "classes": len(classes) or None}
    aggregator = instantiate(_filled(cfg.aggregator, known))
    if cfg.bags.standardise:
        aggregator = Standardised(aggregator)
    task: BagTask = instantiate(_filled(cfg.bag_task, known), aggregator=aggregator)
    return task


def finish(
    cfg: DictConfig,
    folder: Path,
    data: BagDataModule,
    task: BagTask,
    names: tuple[str, ...],
    fates: list[Fate],
) -> int:
    """Evaluates, writes every result of a run, prints the figures, and gives the exit status."""
    name = cfg.data.unit if cfg.bags.of == "group" else "bag"
    subject = BagSubject(task, data, names, name, cfg.data.unit, cfg.bags.note, cfg.evaluation.rare_share)
    parts = [instantiate(part) for part in cfg.evaluation.bags.values() if part is not None]
    evaluations = shareable(cfg, [made for evaluator in parts for made in evaluator(subject)])
    details = next((made.details for made in evaluations if made.name == name), {})
    of_units = next((made.details for made in evaluations if made.name == cfg.data.unit != name), None)
    ranked = next((part for part in parts if isinstance(part, TextsOfBags)), None)
    vocabulary = ranked.asked(data.texts, data.numbers("train")) if ranked and data.texts else ()
    if is_restricted(cfg.data.sharing):  # a caption is somebody's text, an entry of a graph is not
        vocabulary = tuple(entry for entry in vocabulary if entry.concept)
    bag = data.bag(data.ids("train")[0])
    write_facts(folder, facts_of(bag, data.tile_size, names, details, vocabulary, of_units))
    write_results(folder, evaluations)
    write_status(folder, fates)
    return conclude(cfg, folder, evaluations, fates)


def _sampler(cfg: DictConfig, lengths: np.ndarray) -> Any:
    return instantiate(cfg.sampler, lengths=lengths, seed=cfg.seed)


def _filled(node: DictConfig, known: Mapping[str, Any]) -> DictConfig:
    """A copy in which the keys that a config leaves open (null) have the values that are known of the data."""
    filled = node.copy()
    for key, value in known.items():
        if key in filled and filled[key] is None:
            filled[key] = value
    return filled
