"""One evaluator a kind of bag task: its figures beside those of a linear model on the mean of the instances.

What must not be chosen on the tested bags (a threshold, a cut between risk groups) comes from validation or training
bags here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt

from core.evaluation.bag_controls import NAME, linear_classes, linear_labels, linear_number, linear_risk
from core.evaluation.bag_subject import BagSubject
from core.evaluation.bags import (
    Predicted,
    bag_classification,
    bag_multilabel,
    bag_ordinal,
    bag_regression,
    bag_survival,
    validated_threshold,
)
from core.evaluation.cohort import Controls, as_control
from core.evaluation.metrics import FloatArray
from core.mil.tasks.survival import EVENT, TIME, SurvivalTask
from core.types import Evaluation, UserError


class ClassesOfBags:
    """AUROC and accuracies; of two classes also at the threshold that is best on the validation bags."""

    def __init__(self, column: str) -> None:
        self.column = column

    def __call__(self, subject: BagSubject, /) -> list[Evaluation]:
        classes, column = subject.classes(self.column), self.column
        truth = subject.data.labels("train")[column]
        guess = linear_classes(subject.means("train"), truth, subject.means("test"), len(classes.names))

        def figures(name: str, predicted: Predicted, val: Predicted | None, beside: Controls | None) -> Evaluation:
            return bag_classification(name, predicted, classes, threshold_of(val, column), beside, column)

        return beside_control(subject, subject.predicted(), validation(subject), guess, figures)


class GradesOfBags:
    """Quadratic kappa and distance in grades beside the figures of a classification; of two grades also those at the
    threshold that is best on the validation bags."""

    def __init__(self, column: str) -> None:
        self.column = column

    def __call__(self, subject: BagSubject, /) -> list[Evaluation]:
        classes, truth = subject.classes(self.column), subject.data.labels("train")[self.column]
        guess = linear_classes(subject.means("train"), truth, subject.means("test"), len(classes.names))

        def figures(name: str, predicted: Predicted, val: Predicted | None, beside: Controls | None) -> Evaluation:
            return bag_ordinal(name, predicted, classes, threshold_of(val, self.column), beside, self.column)

        return beside_control(subject, subject.predicted(), validation(subject), guess, figures)


class LabelsOfBags:
    """AUROC of each finding, and what is right at the threshold that is best on its validation bags.

    Args:
        labels: names of the findings, as in the task.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)

    def __call__(self, subject: BagSubject, /) -> list[Evaluation]:
        train = subject.data.labels("train")
        truth = np.stack([train[f"label.{label}"] for label in self.labels], axis=1)
        guess = linear_labels(subject.means("train"), truth, subject.means("test"))

        def figures(name: str, predicted: Predicted, val: Predicted | None, beside: Controls | None) -> Evaluation:
            found = dict.fromkeys(self.labels) if val is None else thresholds_of(val, self.labels)
            return bag_multilabel(name, predicted, self.labels, found if beside else None, beside)

        return beside_control(subject, subject.predicted(), validation(subject), guess, figures)


class NumberOfBags:
    """Mean absolute error and R2."""

    def __init__(self, column: str) -> None:
        self.column = column

    def __call__(self, subject: BagSubject, /) -> list[Evaluation]:
        truth = subject.data.labels("train")[self.column]
        guess = linear_number(subject.means("train"), truth, subject.means("test"))

        def figures(name: str, predicted: Predicted, _: Predicted | None, beside: Controls | None) -> Evaluation:
            return bag_regression(name, predicted, truth, beside, self.column)

        return beside_control(subject, subject.predicted(), None, guess, figures)


class SurvivalOfBags:
    """C-index; two risk groups cut at the median risk of the training bags, with their log-rank test.

    A log-risk has no level and no scale of its own, so risks are told in standard deviations from the mean of the
    training bags: only then may the bags of several folds stand in one table.
    """

    def __call__(self, subject: BagSubject, /) -> list[Evaluation]:
        train = subject.data.labels("train")
        means = subject.means("train")
        both = np.concatenate([means, subject.means("test")])
        guess = linear_risk(means, train[TIME], train[EVENT], both)
        mean, deviation = scale_of(guess[: len(means)])
        guess = (guess[len(means) :] - mean) / deviation
        task = cast(SurvivalTask, subject.task)
        risk = {split: task.comparable(subject.values(split).astype(np.float32))[:, 0] for split in ("train", "test")}
        scale = scale_of(risk["train"])
        learned, own = (subject.predicted((risk[of] - scale[0]) / scale[1], of) for of in ("train", "test"))

        def figures(name: str, predicted: Predicted, known: Predicted | None, beside: Controls | None) -> Evaluation:
            if known is None:
                return bag_survival(name, predicted, None, beside)
            made = bag_survival(name, predicted, float(np.median(known.values)), beside)
            return replace(made, details={**made.details, "risk_scale": list(scale)})

        return beside_control(subject, own, learned, guess, figures)


def beside_control(
    subject: BagSubject,
    own: Predicted,
    known: Predicted | None,
    guess: FloatArray,
    figures: Callable[[str, Predicted, Predicted | None, Controls | None], Evaluation],
) -> list[Evaluation]:
    """Figures of the test bags beside those of the linear model; also of units, where these have several bags.

    What is chosen for units (a threshold, a cut) is chosen on units: the mean of several bags is less extreme than one.

    Args:
        own: what the task says of them.
        known: what it says of the bags on which a threshold or cut may be chosen; None where nothing is to be chosen.
        guess: what the linear model says of them, [N] or [N, K].
        figures: of predictions under a name, with the predictions to choose on, beside controls; the linear model has
            neither.
    """
    blind = subject.predicted(guess)
    control = figures(NAME, blind, None, None)
    made = [figures(subject.name, own, known, {NAME: as_control(control)}), control]
    if subject.name != subject.unit and any(map(_several, filter(None, (own, known)))):
        try:
            whole = figures(f"{NAME}_{subject.unit}", blind.by_patient(), None, None)
            chosen = known and known.by_patient()
            made += [figures(subject.unit, own.by_patient(), chosen, {NAME: as_control(whole)}), whole]
        except UserError as error:  # bags with labels of their own
            print(f"left out: figures of each {subject.unit}: {error.what}")
    return made


def _several(predicted: Predicted) -> bool:
    """Whether any unit has several bags."""
    return len(set(predicted.cohort.units)) < len(predicted.cohort.units)


def validation(subject: BagSubject) -> Predicted | None:
    """What the task says of the validation bags; None where there are none."""
    return subject.predicted(split="val") if len(subject.values("val")) else None


def threshold_of(val: Predicted | None, column: str) -> float | None:
    """The threshold on the second of two classes; None where there are more, or the validation bags give none."""
    two = val is not None and val.values.shape[1] == 2
    return validated_threshold(val.values[:, 1], val.labels[column]) if val and two else None


def thresholds_of(val: Predicted, labels: Sequence[str]) -> dict[str, float | None]:
    """By finding its threshold; None where the validation bags give none."""
    return {
        label: validated_threshold(val.values[:, index], val.labels[f"label.{label}"])
        for index, label in enumerate(labels)
    }


def scale_of(risks: npt.ArrayLike) -> tuple[float, float]:
    """Mean and standard deviation of risks [N]; 1 where they do not vary."""
    values = np.asarray(risks, dtype=np.float64)
    return float(values.mean()), float(values.std()) or 1.0
