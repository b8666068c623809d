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
        threshold = threshold_of(subject, column)

        def figures(name: str, predicted: Predicted, beside: Controls | None) -> Evaluation:
            return bag_classification(name, predicted, classes, threshold if beside else None, beside, column)

        return beside_control(subject, subject.predicted(), guess, figures)


class GradesOfBags:
    """Quadratic kappa and distance in grades beside the figures of a classification; of two grades also those at the
    threshold that is best on the validation bags."""

    def __init__(self, column: str) -> None:
        self.column = column

    def __call__(self, subject: BagSubject, /) -> list[Evaluation]:
        classes, truth = subject.classes(self.column), subject.data.labels("train")[self.column]
        guess = linear_classes(subject.means("train"), truth, subject.means("test"), len(classes.names))
        threshold = threshold_of(subject, self.column)

        def figures(name: str, predicted: Predicted, beside: Controls | None) -> Evaluation:
            return bag_ordinal(name, predicted, classes, threshold if beside else None, beside, self.column)

        return beside_control(subject, subject.predicted(), guess, figures)


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
        said, known = subject.values("val"), subject.data.labels("val")
        found = {
            label: validated_threshold(said[:, index], known[f"label.{label}"]) if len(said) else None
            for index, label in enumerate(self.labels)
        }

        def figures(name: str, predicted: Predicted, beside: Controls | None) -> Evaluation:
            return bag_multilabel(name, predicted, self.labels, found if beside else None, beside)

        return beside_control(subject, subject.predicted(), guess, figures)


class NumberOfBags:
    """Mean absolute error and R2."""

    def __init__(self, column: str) -> None:
        self.column = column

    def __call__(self, subject: BagSubject, /) -> list[Evaluation]:
        truth = subject.data.labels("train")[self.column]
        guess = linear_number(subject.means("train"), truth, subject.means("test"))

        def figures(name: str, predicted: Predicted, beside: Controls | None) -> Evaluation:
            return bag_regression(name, predicted, truth, beside, self.column)

        return beside_control(subject, subject.predicted(), guess, figures)


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
        mean, deviation = scale_of(risk["train"])
        cut = (float(np.median(risk["train"])) - mean) / deviation

        def figures(name: str, predicted: Predicted, beside: Controls | None) -> Evaluation:
            made = bag_survival(name, predicted, cut if beside else None, beside)
            return replace(made, details={**made.details, "risk_scale": [mean, deviation]}) if beside else made

        return beside_control(subject, subject.predicted((risk["test"] - mean) / deviation), guess, figures)


def beside_control(
    subject: BagSubject,
    own: Predicted,
    guess: FloatArray,
    figures: Callable[[str, Predicted, Controls | None], Evaluation],
) -> list[Evaluation]:
    """Figures of the test bags beside those of the linear model; also of units, where these have several bags.

    Args:
        own: what the task says of them.
        guess: what the linear model says of them, [N] or [N, K].
        figures: of predictions under a name, beside controls; the linear model has none.
    """
    blind = subject.predicted(guess)
    control = figures(NAME, blind, None)
    made = [figures(subject.name, own, {NAME: as_control(control)}), control]
    units = subject.cohort().units
    if subject.name != subject.unit and len(set(units)) < len(units):
        try:
            whole = figures(NAME, blind.by_patient(), None)
            made.append(figures(subject.unit, own.by_patient(), {NAME: as_control(whole)}))
        except UserError as error:  # bags with labels of their own
            print(f"left out: figures of each {subject.unit}: {error.what}")
    return made


def threshold_of(subject: BagSubject, column: str) -> float | None:
    """The threshold on the second of two classes; None where there are more, or the validation bags give none."""
    said = subject.values("val")
    two = len(subject.names) == 2 and len(said) > 0
    return validated_threshold(said[:, 1], subject.data.labels("val")[column]) if two else None


def scale_of(risks: npt.ArrayLike) -> tuple[float, float]:
    """Mean and standard deviation of risks [N]; 1 where they do not vary."""
    values = np.asarray(risks, dtype=np.float64)
    return float(values.mean()), float(values.std()) or 1.0
