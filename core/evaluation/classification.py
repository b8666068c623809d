"""Figures of a classifier from its probabilities: zero-shot, probe, floors and ResNet-18 all come through here.

The predicted parent is the parent of the best *leaf* (not the parent whose leaves have the largest summed
probability): it needs no calibrated temperature and never contradicts the leaf that is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.evaluation.cohort import Classes, Cohort, Controls, make_evaluation
from core.evaluation.metrics import Metric
from core.types import Evaluation


def classification(
    name: str,
    probabilities: npt.ArrayLike,
    labels: npt.ArrayLike,
    classes: Classes,
    cohort: Cohort,
    controls: Controls | None = None,
    details: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Leaf, balanced, parent and rare-leaf accuracy, macro AUROC (one against the rest), tree distance of errors.

    Args:
        name: of the evaluator; prefix of its figures.
        probabilities: [N, C], rows sum to one.
        labels: [N] int class of each item.
        classes: names, training counts, hierarchy (without one, leaf figures alone).
        controls: further controls; chance and majority (of the training split) are always there.

    Returns:
        Items with id, unit, label, target, prediction, probability, correct, rare, probabilities, and with a
        hierarchy parent_correct and distance (edges between prediction and truth, 0 when right). Columns such as
        ``correct.majority`` hold what a blind control makes of the item.
    """
    table = np.asarray(probabilities, dtype=np.float64)
    truth = np.asarray(labels, dtype=np.int64)
    best = table.argmax(axis=1)
    names = np.asarray(classes.names, dtype=object)
    items = pd.DataFrame(
        {
            "id": np.asarray(cohort.ids, dtype=object),
            "unit": np.asarray(cohort.units, dtype=object).astype(str),
            "label": names[truth],
            "target": truth,
            "prediction": names[best],
            "probability": table[np.arange(len(best)), best],
            "correct": best == truth,
            "correct.majority": truth == classes.majority,  # folds may have other majorities: pooling asks every item
            "rare": classes.rare[truth],
            "probabilities": list(table.astype(np.float32)),
        }
    )
    metrics = [
        Metric(f"{name}/leaf_accuracy", "mean", "correct"),
        Metric(f"{name}/balanced_accuracy", "balanced", "correct"),
        Metric(f"{name}/macro_auroc", "auroc", "probabilities"),
    ]
    if classes.hierarchy is not None:
        items["parent_correct"] = classes.hierarchy.siblings[best, truth]
        items["distance"] = classes.hierarchy.distance[best, truth]
        items["distance.chance"] = classes.hierarchy.chance_distance()[truth]
        items["distance.majority"] = classes.hierarchy.distance[classes.majority, truth]
        metrics.append(Metric(f"{name}/parent_accuracy", "mean", "parent_correct"))
        metrics.append(Metric(f"{name}/tree_distance_of_errors", "mean", "distance", "correct=False", "lower"))
    if classes.rare[truth].any():
        metrics.append(Metric(f"{name}/rare_leaf_accuracy", "mean", "correct", "rare"))
    kept = {
        "class_names": list(classes.names),
        "train_counts": classes.train_counts.tolist(),
        "rare": [str(n) for n in names[classes.rare]],
        "confusion": confusion(truth, best, len(names)).tolist(),
        **(
            {}
            if classes.hierarchy is None
            else {
                "hierarchy": classes.hierarchy.source,
                "parents": [list(names) for names in classes.hierarchy.parents],
            }
        ),
        **(details or {}),
    }
    known = {**blind_controls(truth, classes), **(controls or {})}
    return make_evaluation(name, items, metrics, cohort, known, kept)


def confusion(labels: npt.ArrayLike, predictions: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    """Counts [C, C]: rows are the truth, columns the predictions."""
    table = np.zeros((count, count), dtype=np.int64)
    np.add.at(table, (np.asarray(labels), np.asarray(predictions)), 1)
    return table


def blind_controls(labels: npt.NDArray[np.int64], classes: Classes) -> dict[str, dict[str, float]]:
    """What needs no image: a uniformly random class ("chance", in expectation), and always the class that was most
    frequent in training ("majority")."""
    count, majority, rare = len(classes.names), classes.majority, classes.rare[labels]
    present = len(np.unique(labels))
    chance = {"leaf_accuracy": 1 / count, "balanced_accuracy": 1 / count, "macro_auroc": 0.5}
    always = {
        "leaf_accuracy": float((labels == majority).mean()),
        "balanced_accuracy": float((labels == majority).any()) / present,
        "macro_auroc": 0.5,
    }
    if rare.any():
        chance["rare_leaf_accuracy"] = 1 / count
        always["rare_leaf_accuracy"] = float((labels[rare] == majority).mean())
    if classes.hierarchy is not None:
        siblings, distance = classes.hierarchy.siblings, classes.hierarchy.distance
        chance["parent_accuracy"] = float(siblings[labels].mean())
        always["parent_accuracy"] = float(siblings[labels, majority].mean())
        chance["tree_distance_of_errors"] = float(classes.hierarchy.chance_distance()[labels].mean())
        missed = labels[labels != majority]
        if len(missed):
            always["tree_distance_of_errors"] = float(distance[missed, majority].mean())
    return {"chance": chance, "majority": always}
