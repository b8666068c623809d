"""Figures of bags (slides) and of patients: every task over bags comes through here, and so do its controls.

Each function takes what was predicted and gives an :class:`Evaluation` under a name: what a bag is called, what a unit
is called for :meth:`Predicted.by_patient`, ``mean_of_instances`` for the control of that name. Intervals are always
over the cohort's units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.evaluation.classification import classification
from core.evaluation.cohort import Classes, Cohort, Controls, make_evaluation
from core.evaluation.metrics import FloatArray, Metric
from core.evaluation.survival import log_rank
from core.types import Evaluation, UserError


@dataclass(frozen=True)
class Predicted:
    """What a task said of N bags, and what is known of them."""

    values: FloatArray  # [N] or [N, K], as a task's `predict` gives it (a risk for survival)
    labels: Mapping[str, npt.NDArray[Any]]  # by column, each [N]
    cohort: Cohort
    left_out: Mapping[str, int] = field(default_factory=dict)  # bags that could not be evaluated, by reason

    def __post_init__(self) -> None:
        lengths = {len(self.values), len(self.cohort.ids), *(len(column) for column in self.labels.values())}
        if len(lengths) > 1:
            raise ValueError(f"predictions, labels and ids of different lengths: {sorted(lengths)}")
        if not np.isfinite(self.values).all():
            broken = np.flatnonzero(~np.isfinite(self.values.reshape(len(self.values), -1)).all(axis=1))
            raise UserError(f"the prediction of bag '{self.cohort.ids[broken[0]]}' is not finite")

    def only(self, chosen: npt.NDArray[np.bool_], reason: str) -> Predicted:
        """The chosen bags [N]; the others are counted under a reason."""
        if chosen.all():
            return self
        kept = [list(compress(names, chosen)) for names in (self.cohort.ids, self.cohort.units)]
        cohort = replace(self.cohort, ids=kept[0], units=kept[1])
        labels = {name: column[chosen] for name, column in self.labels.items()}
        left_out = {**self.left_out, reason: int((~chosen).sum())}
        return Predicted(self.values[chosen], labels, cohort, left_out)

    def by_patient(self) -> Predicted:
        """One row a unit: the mean of its bags' predictions, and the label that its bags share.

        Raises:
            UserError: bags of one unit have different labels, so that the unit has none.
        """
        units = np.asarray(self.cohort.units, dtype=object).astype(str)
        names, first, codes = np.unique(units, return_index=True, return_inverse=True)
        for column, values in self.labels.items():
            differ = values != values[first][codes]
            if np.issubdtype(values.dtype, np.floating):
                differ &= ~(np.isnan(values) & np.isnan(values[first][codes]))
            if differ.any():
                raise UserError(
                    f"bags of '{units[differ][0]}' have different values of {column} "
                    f"({len(np.unique(units[differ]))} such units)",
                    f"column {column}",
                    "evaluate slides alone, or give every bag of a patient the patient's label",
                )
        total = np.zeros((len(names), *self.values.shape[1:]))
        np.add.at(total, codes, self.values)
        mean = total / np.bincount(codes).reshape(-1, *[1] * (self.values.ndim - 1))
        labels = {column: values[first] for column, values in self.labels.items()}
        cohort = replace(self.cohort, ids=names.tolist(), units=names.tolist())
        return Predicted(mean, labels, cohort, self.left_out)


def bag_classification(
    name: str,
    predicted: Predicted,
    classes: Classes,
    threshold: float | None = None,
    controls: Controls | None = None,
    column: str = "label",
) -> Evaluation:
    """AUROC one against the rest and accuracies by the most probable class; of two classes also at a threshold.

    Args:
        predicted: probabilities [N, C]; bags of unknown class (-1) are counted and left out.
        threshold: on the probability of the second of two classes, from :func:`best_threshold` on *validation*
            patients. Without one no figure depends on a threshold that nobody chose.
        controls: further ones; chance and majority are always there.
    """
    known = predicted.only(predicted.labels[column] >= 0, f"without a {column}")
    truth = known.labels[column].astype(np.int64)
    details = {"left_out": dict(known.left_out), "threshold": threshold}
    base = classification(name, known.values, truth, classes, known.cohort, controls, details)
    return base if threshold is None else _decided(base, known, truth, classes, threshold, controls)


def validated_threshold(probabilities: FloatArray, labels: npt.ArrayLike) -> float | None:
    """:func:`best_threshold` of the *validation* bags; None where they have not both classes: nothing is decided then.

    Args:
        probabilities: [N] of the second class, or that a finding is there. labels: [N] 0, 1 or -1 (left out).
    """
    truth = np.asarray(labels)
    return best_threshold(probabilities, truth) if len(np.unique(truth[truth >= 0])) == 2 else None


def best_threshold(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The threshold on the second class's probability with the best balanced accuracy, halfway between two items.

    For validation items alone. Of equally good thresholds it is the middle one (of two middle ones the lower).

    Args:
        probabilities: [N] of the second class. labels: [N] 0, 1 or -1 (left out).

    Raises:
        UserError: one of the classes is missing.
    """
    truth = np.asarray(labels)
    score, truth = np.asarray(probabilities, dtype=np.float64)[truth >= 0], truth[truth >= 0]
    if len(np.unique(truth)) < 2:
        raise UserError("a threshold needs validation bags of both classes", "split", "use more validation patients")
    values = np.unique(score)
    cuts = np.concatenate([[values[0]], (values[1:] + values[:-1]) / 2])
    positive, negative = np.sort(score[truth == 1]), np.sort(score[truth == 0])
    missed = np.searchsorted(positive, cuts, side="left")
    refused = np.searchsorted(negative, cuts, side="left")
    found = refused * len(positive) - missed * len(negative)  # balanced accuracy in whole numbers: ties are exact
    best = np.flatnonzero(found == found.max())
    return float(cuts[best[(len(best) - 1) // 2]])


def bag_ordinal(
    name: str,
    predicted: Predicted,
    classes: Classes,
    threshold: float | None = None,
    controls: Controls | None = None,
    column: str = "label",
) -> Evaluation:
    """Quadratic kappa and the mean distance in grades beside the figures of a classification.

    Args:
        predicted: probabilities [N, C] of the grades in their order; the most probable one is the prediction.
        threshold: of two grades, as in :func:`bag_classification`.
    """
    known = predicted.only(predicted.labels[column] >= 0, f"without a {column}")
    truth = known.labels[column].astype(np.int64)
    base = bag_classification(name, known, classes, threshold, controls, column)
    guess = known.values.argmax(axis=1)
    items = base.items.assign(grade=guess, distance_in_grades=np.abs(guess - truth))
    items["grade.majority"] = classes.majority
    metrics = [
        Metric(f"{name}/quadratic_kappa", "kappa", "grade"),
        Metric(f"{name}/distance_in_grades", "mean", "distance_in_grades", better="lower"),
    ]
    grades = np.arange(len(classes.names))
    blind = {
        "chance": {
            "quadratic_kappa": 0.0,
            "distance_in_grades": float(np.abs(truth[:, None] - grades).mean()),
        },
        "majority": {
            "quadratic_kappa": 0.0,
            "distance_in_grades": float(np.abs(truth - classes.majority).mean()),
        },
    }
    return _extended(base, items, metrics, known.cohort, blind, controls)


def bag_multilabel(
    name: str,
    predicted: Predicted,
    names: Sequence[str],
    thresholds: Mapping[str, float | None] | None = None,
    controls: Controls | None = None,
) -> Evaluation:
    """AUROC of each label and their mean; sensitivity and specificity of each that has a threshold.

    Args:
        predicted: probabilities [N, L]; labels in columns ``label.<name>`` with 1, 0 or -1 (does not count).
        thresholds: by label, from :func:`validated_threshold`; None where the validation bags gave none.
    """
    truths = np.stack([predicted.labels[f"label.{label}"] for label in names], axis=1).astype(np.float64)
    truths[truths < 0] = np.nan
    some: npt.NDArray[np.bool_] = np.asarray(~np.isnan(truths).all(axis=1))
    known, truths = predicted.only(some, "without any label"), truths[some]
    items = _items(known.cohort)
    items["probabilities"], items["targets"] = list(known.values), list(truths)
    for index, label in enumerate(names):
        items[f"probabilities.{label}"], items[f"targets.{label}"] = known.values[:, index], truths[:, index]
    metrics = [Metric(f"{name}/macro_auroc", "labels_auroc", "probabilities")]
    metrics += [Metric(f"{name}/auroc.{label}", "labels_auroc", f"probabilities.{label}") for label in names]
    for index, label in enumerate(names):
        threshold = (thresholds or {}).get(label)
        if threshold is not None:
            right = (known.values[:, index] >= threshold) == (truths[:, index] == 1)
            items[f"right_at_threshold.{label}"] = np.where(np.isnan(truths[:, index]), np.nan, right)
            for short, value in (("sensitivity", 1.0), ("specificity", 0.0)):
                column, where = f"right_at_threshold.{label}", f"targets.{label}={value}"
                metrics.append(Metric(f"{name}/{short}.{label}", "mean", column, where))
    blind = {metric.name.partition("/")[2]: 0.5 for metric in metrics}
    positive = {label: int(np.nansum(truths[:, index])) for index, label in enumerate(names)}
    details = {
        "labels": list(names),
        "positive": positive,
        "left_out": dict(known.left_out),
        "thresholds": dict(thresholds or {}),
    }
    return make_evaluation(name, items, metrics, known.cohort, {"chance": blind, **(controls or {})}, details)


def bag_regression(
    name: str,
    predicted: Predicted,
    train_targets: npt.ArrayLike,
    controls: Controls | None = None,
    column: str = "label",
) -> Evaluation:
    """Mean absolute error, in the target's unit, and R2; the controls ``training_mean`` and ``training_median`` always
    say the same number (the median is the one that the absolute error favours).

    Args:
        predicted: [N] in the target's unit; bags without a target (NaN) are counted and left out.
        train_targets: targets of the training bags.
    """
    there = np.asarray(~np.isnan(predicted.labels[column].astype(np.float64)), dtype=np.bool_)
    known = predicted.only(there, f"without a {column}")
    truth = known.labels[column].astype(np.float64)
    items = _items(known.cohort).assign(
        target=truth, estimate=known.values, absolute_error=np.abs(known.values - truth)
    )
    metrics = [
        Metric(f"{name}/mean_absolute_error", "mean", "absolute_error", better="lower"),
        Metric(f"{name}/r2", "r2", "estimate"),
    ]
    trained = np.asarray(train_targets, dtype=np.float64)
    spread = np.square(truth - truth.mean()).sum()
    guesses = {"training_mean": float(np.nanmean(trained)), "training_median": float(np.nanmedian(trained))}
    constant = {
        label: {
            "mean_absolute_error": float(np.abs(truth - number).mean()),
            "r2": float(1 - np.square(truth - number).sum() / spread) if spread > 0 else np.nan,
        }
        for label, number in guesses.items()
    }
    # pooled folds need the guess of every item: their R2 is no mean of the folds'
    items = items.assign(**{f"estimate.{label}": number for label, number in guesses.items()})
    known_controls = {**constant, **(controls or {})}
    return make_evaluation(name, items, metrics, known.cohort, known_controls, {"left_out": dict(known.left_out)})


def bag_survival(
    name: str, predicted: Predicted, cut: float | None = None, controls: Controls | None = None
) -> Evaluation:
    """Harrell's C-index on the times themselves; with a cut also the two risk groups and their log-rank test.

    Args:
        predicted: risks [N], higher for the earlier event; labels ``time`` and ``event``.
        cut: risks above it are the group ``high``; from training or validation patients (their median), never from
            these.
    """
    items = _items(predicted.cohort).assign(
        time=predicted.labels["time"].astype(np.float64),
        event=predicted.labels["event"] > 0,
        risk=predicted.values.astype(np.float64),
    )
    details: dict[str, Any] = {"events": int(items["event"].sum()), "left_out": dict(predicted.left_out), "cut": cut}
    if cut is not None:
        items["risk_group"] = np.where(items["risk"] > cut, "high", "low")
        if items["risk_group"].nunique() == 2:
            test = log_rank(items["time"], items["event"], items["risk_group"])
            details["log_rank"] = {"statistic": test.statistic, "freedom": test.freedom, "p": test.p}
    known = {"chance": {"c_index": 0.5}, **(controls or {})}
    return make_evaluation(
        name, items, [Metric(f"{name}/c_index", "concordance", "risk")], predicted.cohort, known, details
    )


def _items(cohort: Cohort) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": np.asarray(cohort.ids, dtype=object),
            "unit": np.asarray(cohort.units, dtype=object).astype(str),
        }
    )


def _decided(
    base: Evaluation,
    known: Predicted,
    truth: npt.NDArray[np.int64],
    classes: Classes,
    threshold: float,
    controls: Controls | None,
) -> Evaluation:
    """An evaluation of two classes with its figures at a threshold on the probability of the second."""
    if len(classes.names) != 2:
        raise ValueError("a threshold belongs to two classes")
    name, (negative, positive) = base.name, classes.names
    right = (known.values[:, 1] >= threshold) == (truth == 1)
    metrics = [
        Metric(f"{name}/balanced_accuracy_at_threshold", "balanced", "right_at_threshold"),
        Metric(f"{name}/sensitivity", "mean", "right_at_threshold", f"label={positive}"),
        Metric(f"{name}/specificity", "mean", "right_at_threshold", f"label={negative}"),
    ]
    always = float(classes.majority == 1)
    blind = {
        "chance": {metric.name.partition("/")[2]: 0.5 for metric in metrics},
        "majority": {"balanced_accuracy_at_threshold": 0.5, "sensitivity": always, "specificity": 1 - always},
    }
    return _extended(base, base.items.assign(right_at_threshold=right), metrics, known.cohort, blind, controls)


def _extended(
    base: Evaluation,
    items: pd.DataFrame,
    metrics: Sequence[Metric],
    cohort: Cohort,
    blind: Controls,
    controls: Controls | None,
) -> Evaluation:
    """An evaluation with further columns and figures."""
    more = make_evaluation(base.name, items, metrics, cohort, {**blind, **(controls or {})})
    recipes = {**base.details["metrics"], **more.details["metrics"]}
    return Evaluation(base.name, items, [*base.figures, *more.figures], {**base.details, "metrics": recipes})
