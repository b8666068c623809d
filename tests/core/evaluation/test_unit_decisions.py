"""What is chosen for units with several bags is chosen on units, on validation or training data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from core.evaluation.bag_evaluators import ClassesOfBags, LabelsOfBags, SurvivalOfBags
from core.evaluation.bags import Predicted, best_threshold
from core.evaluation.cohort import Classes, Cohort

SPLITS = ("train", "val", "test")


def subject_of(labels: dict[str, np.ndarray], values: dict[str, np.ndarray]) -> Any:
    """Twelve patients with one to four bags in each split; the bags of a patient share its labels [12]."""
    codes = np.repeat(np.arange(12), np.arange(12) % 4 + 1)
    of_bags = {name: column[codes] for name, column in labels.items()}
    units = [f"p{code}" for code in codes]
    cohort = Cohort([f"{unit}_{bag}" for bag, unit in enumerate(units)], units, "patient", draws=20)

    def predicted(own: np.ndarray | None = None, split: str = "test") -> Predicted:
        return Predicted(values[split] if own is None else own, of_bags, cohort)

    means = {split: np.random.default_rng(n).normal(size=(len(codes), 3)) for n, split in enumerate(SPLITS)}
    return SimpleNamespace(
        name="bag", unit="patient", names=("a", "b"), predicted=predicted, values=values.get, means=means.get,
        data=SimpleNamespace(labels=lambda split: of_bags), task=SimpleNamespace(comparable=lambda v: v[:, None]),
        classes=lambda column: Classes(("a", "b"), np.array([6, 6])),
    )  # fmt: skip


def random_values() -> dict[str, np.ndarray]:
    return {split: np.random.default_rng(n + 5).random(30) for n, split in enumerate(SPLITS)}


def of_patients(values: np.ndarray) -> np.ndarray:
    return np.array([part.mean() for part in np.split(values, np.cumsum(np.arange(12) % 4 + 1)[:-1])])


def test_thresholds_of_patients_are_best_on_validation_patients() -> None:
    truth, chosen = np.random.default_rng(1).permutation(np.arange(12) % 2), random_values()
    expected = best_threshold(of_patients(chosen["val"]), truth)
    table = {split: np.stack([1 - own, own], axis=1) for split, own in chosen.items()}
    classes = {made.name: made for made in ClassesOfBags("label")(subject_of({"label": truth}, table))}
    assert classes["patient"].details["threshold"] == pytest.approx(expected)
    assert classes["bag"].details["threshold"] != pytest.approx(expected)
    found = LabelsOfBags(["x"])(subject_of({"label.x": truth}, {split: own[:, None] for split, own in chosen.items()}))
    labels = {made.name: made for made in found}
    assert labels["patient"].details["thresholds"] == {"x": pytest.approx(expected)}
    items = labels["patient"].items
    right = (items["probabilities.x"] >= expected) == (items["targets.x"] == 1)
    assert (items["right_at_threshold.x"] == right).all()


def test_risk_groups_of_patients_are_cut_at_the_median_of_training_patients() -> None:
    chosen = random_values()
    labels = {"time": np.arange(1.0, 13), "event": np.arange(12) % 3 > 0}
    made = {one.name: one for one in SurvivalOfBags()(subject_of(labels, chosen))}
    train = chosen["train"].astype(np.float32).astype(np.float64)
    cuts = {name: float(np.median(own)) for name, own in (("bag", train), ("patient", of_patients(train)))}
    for name, cut in cuts.items():
        assert made[name].details["cut"] == pytest.approx((cut - train.mean()) / train.std(), rel=1e-4)
    assert cuts["bag"] != pytest.approx(cuts["patient"])
