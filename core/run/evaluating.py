"""Every evaluator of a config over one trained model, the controls first: their figures stand beside the others'."""

from __future__ import annotations

import numpy as np
from omegaconf import DictConfig

from core.data.captions import words
from core.data.module import PairsDataModule
from core.evaluation.cohort import Classes, as_control
from core.evaluation.hierarchy import Hierarchy
from core.evaluation.subject import Subject
from core.models.dual_encoder import DualEncoder
from core.run.external import evaluate_external
from core.run.inputs import Inputs
from core.run.instantiate import instantiate
from core.types import Evaluation, Fate, UserError


def evaluate_model(
    cfg: DictConfig, inputs: Inputs, data: PairsDataModule, model: DualEncoder
) -> tuple[list[Evaluation], Subject, list[Fate]]:
    """Runs ``evaluation.controls``, then ``evaluation.evaluators``, then both questions on ``data.external``.

    Returns:
        The evaluations (controls last), what was evaluated, and what became of the files of another set.
    """
    if not {"controls", "evaluators"} <= set(cfg.evaluation):
        raise UserError("the run is of an older version, whose config names no evaluators", todo="train it again")
    subject = subject_of(cfg, inputs, data, model)
    controls = _controls(cfg.evaluation.controls, subject)
    beside = {made.name.removeprefix("floor_"): as_control(made) for made in controls}
    evaluations = [*_run(cfg.evaluation.evaluators, subject, beside), *controls]
    fates: list[Fate] = []
    if cfg.data.external and subject.classes is not None:
        further, fates = evaluate_external(cfg, subject)
        evaluations += further
    return evaluations, subject, fates


def subject_of(cfg: DictConfig, inputs: Inputs, data: PairsDataModule, model: DualEncoder) -> Subject:
    """The model with its data, classes and prompts, as a config says."""
    notes = ["synthetic"] if inputs.synthetic else []
    if cfg.data.captions.source == "label":
        notes.append("text-prompted")
    names = {label: names_of(cfg, inputs, label) for label in inputs.classes}
    return Subject(
        model,
        data,
        classes_of(cfg, inputs, data),
        names,
        list(cfg.evaluation.templates),
        cfg.data.unit,
        ", ".join(notes),
    )


def names_of(cfg: DictConfig, inputs: Inputs, label: str) -> list[str]:
    """What a class is called in prompts: the names of its concept, and its own words."""
    concept, graph = inputs.concept(label), inputs.graph
    known: list[str] = []
    if concept is not None and graph is not None:
        known = [graph.name(concept), *(graph.synonyms[concept] if cfg.evaluation.synonyms else ())]
    return list(dict.fromkeys([*known, words(label)]))


def classes_of(cfg: DictConfig, inputs: Inputs, data: PairsDataModule) -> Classes | None:
    """Class names, how often training shows each, and where they sit in the graph or in a committed table.

    None where training knows no two classes: nothing can then be told apart.
    """
    names, labels = data.classes, data.labels[data.rows("train")]
    counts = np.bincount(labels[labels >= 0], minlength=len(names)).astype(np.int64)
    if (counts > 0).sum() < 2:
        return None
    hierarchy = None
    concepts = [inputs.concept(name) for name in names]
    if cfg.evaluation.hierarchy:
        hierarchy = Hierarchy.from_csv(cfg.evaluation.hierarchy, names)
    elif inputs.graph is not None and all(concept is not None for concept in concepts):
        hierarchy = Hierarchy.from_graph(inputs.graph, concepts, names, "graph")  # type: ignore[arg-type]
    return Classes(names, counts, hierarchy, cfg.evaluation.rare_share)


def _controls(chosen: DictConfig, subject: Subject) -> list[Evaluation]:
    """A control reads the pictures once more; one that no longer can is left out, and the model's own figures stay."""
    parts = {str(name): instantiate(part) for name, part in chosen.items() if part is not None}
    made: list[Evaluation] = []
    for name, control in parts.items():
        try:
            made += control(subject, {})
        except (UserError, OSError) as error:
            print(f"left out: the control '{name}': {error}")
    return made


def _run(chosen: DictConfig, subject: Subject, controls: dict[str, dict[str, float]]) -> list[Evaluation]:
    parts = [instantiate(part) for part in chosen.values() if part is not None]
    return [made for evaluator in parts for made in evaluator(subject, controls)]
