"""Every evaluator over one trained model: zero-shot, probe, retrieval, and the controls beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.progress import track

from core.data.captions import words
from core.data.module import PairsDataModule
from core.evaluation.cohort import Classes, Cohort, Controls, as_control
from core.evaluation.controls import SupervisedBudget, resnet18
from core.evaluation.hierarchy import Hierarchy
from core.evaluation.probe import floors, probe
from core.evaluation.prompts import Prompts, encode_prompts
from core.evaluation.retrieval import retrieval
from core.evaluation.zero_shot import zero_shot
from core.models.dual_encoder import DualEncoder
from core.run.external import evaluate_external
from core.run.inputs import Inputs
from core.types import Evaluation, Fate


@dataclass(frozen=True)
class Embedded:
    """One split through the image tower, in file order."""

    rows: np.ndarray  # [n] int64: manifest rows
    images: np.ndarray  # [n, 3, s, s] uint8
    embeddings: np.ndarray  # [n, D] float32, unit
    features: np.ndarray  # [n, width] float32, before the projection


def embed_split(model: DualEncoder, data: PairsDataModule, split: str, batch_size: int = 128) -> Embedded:
    """Embeds a split on the model's device, without augmentation."""
    device = next(model.parameters()).device
    model.eval()
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    total = -(-len(data.rows(split)) // batch_size)
    with torch.inference_mode():
        batches = data.eval_images(split, batch_size)
        for rows, images in track(batches, f"embedding {split}", total=total, transient=True):
            pixels = images.to(device)
            embeddings, features = model.embed_images(pixels)
            parts.append((rows, images.numpy(), embeddings.cpu().numpy(), features.cpu().numpy()))
    if not parts:
        size, nothing = model.geometry.size_px, np.zeros((0, model.embed_dim), np.float32)
        return Embedded(np.zeros(0, np.int64), np.zeros((0, 3, size, size), np.uint8), nothing, nothing)
    return Embedded(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def evaluate_model(
    cfg: DictConfig, inputs: Inputs, data: PairsDataModule, model: DualEncoder, split: str = "test"
) -> tuple[list[Evaluation], Embedded, list[Fate]]:
    """Runs every evaluator the data allow: classes need labels, retrieval needs captions.

    Returns:
        The evaluations, the evaluated split embedded (for galleries), and what became of the files of another set.
    """
    test = embed_split(model, data, split)
    frame = inputs.manifest.frame
    evaluations: list[Evaluation] = []
    fates: list[Fate] = []
    labelled = data.labels[test.rows] >= 0
    taught = np.unique(data.labels[data.rows("train")])
    if labelled.any() and (taught >= 0).sum() > 1:  # classes that training knows
        evaluations, fates = _by_class(cfg, inputs, data, model, _select(test, labelled))
    captions = [frame["captions"].iloc[row] for row in test.rows]
    owner = np.repeat(np.arange(len(test.rows)), [len(texts) for texts in captions])
    if len(owner):
        flat = [text for texts in captions for text in texts]
        texts = _encode(model, flat)
        # windows of one slide are other pictures than the slide
        where = zip(*(frame[name].iloc[test.rows] for name in ("path", "x", "y", "w", "h")), strict=True)
        keys = ["@".join(map(str, place)) for place in where]
        cohort = _cohort(cfg, inputs, test.rows)
        evaluations.append(retrieval(test.embeddings, texts, owner, flat, cohort, keys))
    return evaluations, test, fates


def prompts_of(cfg: DictConfig, inputs: Inputs, model: DualEncoder) -> Prompts:
    """Prompts of every class: its words, and the names of its concept, in every template."""
    names: dict[str, list[str]] = {}
    for label in inputs.classes:
        concept = inputs.concept(label)
        known = [] if concept is None or inputs.graph is None else [inputs.graph.name(concept)]
        if known and cfg.evaluation.synonyms:
            known += [str(text) for text in inputs.graph.synonyms[concept]]  # type: ignore[union-attr,index]
        names[label] = list(dict.fromkeys([*known, words(label)]))
    return encode_prompts(model, names, list(cfg.evaluation.templates))


def classes_of(cfg: DictConfig, inputs: Inputs, data: PairsDataModule) -> Classes:
    """Class names, how often training shows each, and where they sit in the graph or in a committed table."""
    names = data.classes
    counts = np.bincount(data.labels[data.rows("train")][data.labels[data.rows("train")] >= 0], minlength=len(names))
    hierarchy = None
    concepts = [inputs.concept(name) for name in names]
    if cfg.evaluation.hierarchy:
        hierarchy = Hierarchy.from_csv(cfg.evaluation.hierarchy, names)
    elif inputs.graph is not None and all(concept is not None for concept in concepts):
        hierarchy = Hierarchy.from_graph(inputs.graph, concepts, names, "graph")  # type: ignore[arg-type]
    return Classes(names, counts.astype(np.int64), hierarchy, cfg.evaluation.rare_share)


def _by_class(
    cfg: DictConfig, inputs: Inputs, data: PairsDataModule, model: DualEncoder, test: Embedded
) -> tuple[list[Evaluation], list[Fate]]:
    train = embed_split(model, data, "train")
    known = data.labels[train.rows] >= 0
    train = _select(train, known)
    ids = inputs.manifest.frame["id"]
    classes, cohort = classes_of(cfg, inputs, data), _cohort(cfg, inputs, test.rows)
    y_train, y_test = data.labels[train.rows], data.labels[test.rows]
    done: list[Evaluation] = []
    controls: dict[str, dict[str, float]] = {}
    if cfg.evaluation.resnet18:
        budget = SupervisedBudget(**OmegaConf.to_container(cfg.evaluation.resnet18, resolve=True))  # type: ignore[arg-type]
        done.append(
            resnet18(train.images, y_train, ids.iloc[train.rows].tolist(), test.images, y_test, classes, cohort, budget)
        )
        controls["resnet18"] = as_control(done[-1])
    if cfg.evaluation.simple_features:
        for floor in floors(list(train.images), y_train, list(test.images), y_test, classes, cohort):
            controls[floor.name.removeprefix("floor_")] = as_control(floor)
            done.append(floor)
    prompts = prompts_of(cfg, inputs, model)
    beside: Controls = controls
    shot = zero_shot(test.embeddings, prompts.weights(), y_test, classes, cohort, beside, model.scale, prompts)
    probed = probe(train.features, y_train, test.features, y_test, classes, cohort, beside)
    further: list[Evaluation] = []
    fates: list[Fate] = []
    if cfg.data.external:
        further, fates = evaluate_external(cfg, model, prompts, classes, train.features, y_train)
    return [shot, probed, *done, *further], fates


def _cohort(cfg: DictConfig, inputs: Inputs, rows: np.ndarray) -> Cohort:
    frame = inputs.manifest.frame.iloc[rows]
    notes = ["synthetic"] if inputs.synthetic else []
    if cfg.data.captions.source == "label":
        notes.append("text-prompted")
    return Cohort(frame["id"].tolist(), frame["group"].astype(str).tolist(), cfg.data.unit, ", ".join(notes))


def _select(embedded: Embedded, keep: np.ndarray) -> Embedded:
    return Embedded(*(getattr(embedded, name)[keep] for name in ("rows", "images", "embeddings", "features")))


def _encode(model: DualEncoder, texts: Sequence[str], batch: int = 256) -> np.ndarray:
    device = next(model.parameters()).device
    with torch.inference_mode():
        parts = [
            model.encode_texts(model.tokenize(list(texts[start : start + batch])).to(device)).cpu().numpy()
            for start in range(0, len(texts), batch)
        ]
    return np.concatenate(parts)
