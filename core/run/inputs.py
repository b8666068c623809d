"""What a run learns from: manifest with splits, graph, linked rows, groups and relations, in that order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from core.data.audit import Finding, audit, refuse
from core.data.captions import CaptionChooser, words
from core.data.concepts import RowConcepts, link_rows
from core.data.manifest import Manifest
from core.data.module import PairsDataModule
from core.data.splits import assign_splits, load_splits, save_splits
from core.data.targets import Relations
from core.data.tiles import TileSource
from core.files import cache_dir
from core.knowledge.graph import KnowledgeGraph
from core.knowledge.groups import group_captions
from core.knowledge.linking import Linker
from core.knowledge.load import load_graph
from core.knowledge.relations import ConceptSets, RelationTable
from core.knowledge.templates import CaptionTemplates
from core.models.dual_encoder import DualEncoder
from core.run.instantiate import instantiate
from core.run.tables import manifest_options, needed, read_manifest
from core.types import UserError


@dataclass(frozen=True)
class Inputs:
    """Everything about the data that does not depend on the model."""

    manifest: Manifest  # every row has a split
    findings: tuple[Finding, ...]
    graph: KnowledgeGraph | None  # the true one, whatever the objective sees
    concepts: RowConcepts | None
    relations: Relations
    group_names: tuple[str, ...]
    synthetic: bool

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, sorted: the order of every class number."""
        return tuple(sorted({label for label in self.manifest.frame["label"] if label is not None}))

    def concept(self, label: str) -> int | None:
        """Concept of a class."""
        return None if self.concepts is None else self.concepts.labels.get(label)


def read_inputs(cfg: DictConfig, folder: Path) -> Inputs:
    """Reads, splits, audits and links the data of a config.

    Raises:
        UserError: anything in manifest, splits or graph that would stop or invalidate the run.
    """
    path = Path(cfg.manifest) if cfg.manifest else phantom_manifest(cfg)
    manifest = read_manifest(path, manifest_options(cfg) if cfg.manifest else None, needed(cfg))
    manifest = with_splits(cfg, manifest, folder)
    findings = audit(manifest)
    refuse(findings, str(manifest.path))
    return linked(cfg, manifest, findings, graph_path(cfg, path))


def linked(cfg: DictConfig, manifest: Manifest, findings: Sequence[Finding], graph_files: Any) -> Inputs:
    """A manifest with what the graph says of its rows.

    Args:
        cfg: of the run.
        manifest: with splits.
        findings: of its audit.
        graph_files: one graph file or several; None: no graph, and rows of the same caption are a group.

    Raises:
        UserError: anything in the graph or in the column ``concepts`` that is wrong.
    """
    source = cfg.data.captions.source
    graph = None
    if graph_files:
        graph = load_graph(graph_files, cfg.knowledge.prefix, cache_dir())
    if graph is None:
        count = len(manifest.frame)
        relations = Relations(
            np.unique(_group_texts(manifest, source), return_inverse=True)[1].astype(np.int64),
            np.zeros(count, np.int64),
        )
        return Inputs(manifest, tuple(findings), None, None, relations, (), not cfg.manifest)
    linker = Linker(graph, cfg.knowledge.aliases)
    concepts = link_rows(manifest, graph, linker, cfg.data.captions.source)
    captions = _group_texts(manifest, source)
    # only concepts found in free text may be too common to mean anything; labels and the column are the user's word
    free = cfg.data.captions.source == "caption" and not manifest.frame["concepts"].map(bool).any()
    grouping = group_captions(captions, list(concepts.sets), cfg.knowledge.max_share if free else 1.0)
    # a shuffled graph changes the relations the objective sees; captions, groups and metrics keep the true one
    seen = graph if cfg.knowledge.shuffle_seed is None else graph.shuffled(int(cfg.knowledge.shuffle_seed))
    sets = ConceptSets.intern(list(concepts.sets))
    relations = Relations(np.asarray(grouping.group), np.asarray(sets.set_id), RelationTable(seen, sets))
    return Inputs(manifest, tuple(findings), graph, concepts, relations, tuple(grouping.names), not cfg.manifest)


def make_data(cfg: DictConfig, inputs: Inputs, model: DualEncoder) -> PairsDataModule:
    """The data module of a model: pictures at its geometry, captions in its tokens."""
    tiles = TileSource(
        inputs.manifest,
        instantiate(cfg.reader),
        model.geometry,
        resolution=cfg.data.resolution,
        override=cfg.geometry == "override",
        cache_gib=cfg.data.cache_gib,
    )

    def sampler(groups: np.ndarray) -> Any:
        return instantiate(cfg.sampler, groups=groups, seed=cfg.seed)

    return PairsDataModule(
        inputs.manifest,
        tiles,
        sampler,
        seed=cfg.seed,
        captions=caption_chooser(cfg, inputs),
        relations=inputs.relations,
        tokenize=model.tokenize,
        augment=instantiate(cfg.data.augment) if cfg.data.augment else None,
        classes=inputs.classes,
        workers=cfg.data.workers,
    )


def caption_chooser(cfg: DictConfig, inputs: Inputs) -> CaptionChooser:
    """Chooses the words of each row of the inputs' manifest, as ``data.captions`` says."""
    templates, frame = list(cfg.data.captions.templates), inputs.manifest.frame
    return CaptionChooser(
        cfg.data.captions.source,
        frame["captions"].tolist(),
        frame["label"].tolist(),
        cfg.seed,
        {} if inputs.concepts is None else inputs.concepts.labels,
        None if inputs.graph is None else CaptionTemplates(inputs.graph, templates),
        templates,
        cfg.data.captions.per_image,
        cfg.data.captions.word_dropout,
    )


def graph_path(cfg: DictConfig, manifest: Path) -> Any:
    """The graph that a config names (a file, several, or None), or that of the domain's phantom."""
    named = OmegaConf.to_container(cfg.knowledge, resolve=True)["path"]  # type: ignore[index,call-overload]
    return named if named or cfg.manifest else [str(path) for path in sorted(manifest.parent.glob("*.obo"))]


def phantom_manifest(cfg: DictConfig) -> Path:
    """The table of the domain's synthetic cohort, which is made when it is not there.

    Raises:
        UserError: the domain has none, or it cannot be written.
    """
    if not cfg.data.phantom:
        raise UserError("there is no manifest", todo="give manifest=<table of pictures and captions>")
    recipe = OmegaConf.to_container(cfg.data.phantom, resolve=True)
    name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]
    return Path(instantiate(cfg.data.phantom, folder=cache_dir() / "phantoms" / name))


def with_splits(cfg: DictConfig, manifest: Manifest, folder: Path) -> Manifest:
    """A manifest whose rows all have a split: the saved ones of a run, else made by group and saved.

    Raises:
        UserError: the run began with another manifest, or the rows cannot be split as asked.
    """
    saved = folder / "splits.csv"
    if saved.is_file():  # a resumed run, or the run that is evaluated
        made_by = json.loads(saved.with_suffix(".json").read_text(encoding="utf-8"))
        if made_by.get("manifest_sha256") != manifest.sha256:
            raise UserError(
                f"the manifest '{manifest.path}' is not the one the run began with",
                str(saved),
                "restore it, or train anew",
            )
        return manifest.with_frame(load_splits(manifest.frame, saved))
    split = cfg.data.split
    seed = cfg.seed if split.seed is None else split.seed
    frame = assign_splits(manifest.frame, split.fractions, seed, split.fold, split.folds)
    if not cfg.dry_run:
        save_splits(frame, saved, seed=seed, fold=split.fold, folds=split.folds, manifest_sha256=manifest.sha256)
    return manifest.with_frame(frame)


def _group_texts(manifest: Manifest, source: str) -> list[str]:
    """What makes rows without concepts one group: an identical caption, or a class that captions are made from."""
    frame = manifest.frame
    return [
        words(label) if source != "caption" and label is not None else texts[0] if texts else f"row {row}"
        for row, (label, texts) in enumerate(zip(frame["label"], frame["captions"], strict=True))
    ]
