"""One evaluator a kind of bag task: its figures beside those of a linear model on the mean of the instances.

What must not be chosen on the tested bags (a threshold, a cut between risk groups) comes from validation or training
bags here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt

from core.evaluation.bag_controls import NAME, linear_classes, linear_labels, linear_number, linear_risk
from core.evaluation.bag_subject import BagSubject
from core.evaluation.bags import (
    bag_classification,
    bag_multilabel,
    bag_ordinal,
    bag_regression,
    bag_survival,
    validated_threshold,
)
from core.evaluation.cohort import as_control
from core.mil.tasks.survival import EVENT, TIME, SurvivalTask
from core.types import Evaluation


class ClassesOfBags:
    """AUROC and accuracies; of two classes also at the threshold that is best on the validation bags."""

    def __init__(self, column: str) -> None:
        self.column = column

    def __call__(self, subject: BagSubject, /) -> list[Evaluation]:
        classes, column = subject.classes(self.column), self.column
        truth = subject.data.labels("train")[column]
        guess = linear_classes(subject.means("train"), truth, subject.means("test"), len(classes.names))
        control = bag_classification(NAME, subject.predicted(guess), classes, column=column)
        beside = {NAME: as_control(control)}
        threshold = threshold_of(subject, column)
        own = bag_classification(subject.name, subject.predicted(), classes, threshold, beside, column)
        return [own, control]


class GradesOfBags:
    """Quadratic kappa and distance in grades beside the figures of a classification; of two grades also those at the
    threshold that is best on the validation bags."""

    def __init__(self, column: str) -> None:
        self.column = column

    def __call__(self, subject: BagSubject, /) -> list[Evaluation]:
        classes, truth = subject.classes(self.column), subject.data.labels("train")[self.column]
        guess = linear_classes(subject.means("train"), truth, subject.means("test"), len(classes.names))
        control = bag_ordinal(NAME, subject.predicted(guess), classes, column=self.column)
        beside = {NAME: as_control(control)}
        threshold = threshold_of(subject, self.column)
        own = bag_ordinal(subject.name, subject.predicted(), classes, threshold, beside, self.column)
        return [own, control]


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
        control = bag_multilabel(NAME, subject.predicted(guess), self.labels)
        said, known = subject.values("val"), subject.data.labels("val")
        found = {
            label: validated_threshold(said[:, index], known[f"label.{label}"]) if len(said) else None
            for index, label in enumerate(self.labels)
        }
        own = bag_multilabel(subject.name, subject.predicted(), self.labels, found, {NAME: as_control(control)})
        return [own, control]


class NumberOfBags:
    """Mean absolute error and R2."""

    def __init__(self, column: str) -> None:
        self.column = column

    def __call__(self, subject: BagSubject, /) -> list[Evaluation]:
        truth = subject.data.labels("train")[self.column]
        guess = linear_number(subject.means("train"), truth, subject.means("test"))
        control = bag_regression(NAME, subject.predicted(guess), truth, column=self.column)
        beside = {NAME: as_control(control)}
        return [bag_regression(subject.name, subject.predicted(), truth, beside, self.column), control]


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
        control = bag_survival(NAME, subject.predicted((guess[len(means) :] - mean) / deviation))
        task = cast(SurvivalTask, subject.task)
        risk = {split: task.comparable(subject.values(split).astype(np.float32))[:, 0] for split in ("train", "test")}
        mean, deviation = scale_of(risk["train"])
        cut = (float(np.median(risk["train"])) - mean) / deviation
        predicted = subject.predicted((risk["test"] - mean) / deviation)
        own = bag_survival(subject.name, predicted, cut, {NAME: as_control(control)})
        return [replace(own, details={**own.details, "risk_scale": [mean, deviation]}), control]


def threshold_of(subject: BagSubject, column: str) -> float | None:
    """The threshold on the second of two classes; None where there are more, or the validation bags give none."""
    said = subject.values("val")
    two = len(subject.names) == 2 and len(said) > 0
    return validated_threshold(said[:, 1], subject.data.labels("val")[column]) if two else None


def scale_of(risks: npt.ArrayLike) -> tuple[float, float]:
    """Mean and standard deviation of risks [N]; 1 where they do not vary."""
    values = np.asarray(risks, dtype=np.float64)
    return float(values.mean()), float(values.std()) or 1.0
