"""A statistic under weights is the statistic of the repeated sample."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from core.evaluation.metrics import Metric, balanced, macro_auroc, mean, median, point, statistic
from core.types import UserError

COUNTS = np.array([2, 0, 1, 3, 1, 1, 2, 0, 1, 1])


def test_mean_and_median_equal_those_of_the_repeated_sample() -> None:
    values = np.array([3.0, 9, 1, 4, 1, 5, 9, 2, 6, 5])
    repeated = values.repeat(COUNTS)
    weights = COUNTS[None].astype(float)
    assert mean(values)(weights)[0] == pytest.approx(repeated.mean())
    assert median(values)(weights)[0] == pytest.approx(np.median(repeated))


def test_median_of_an_even_sample_lies_halfway() -> None:
    assert point(median([1.0, 2, 10, 20]), 4) == 6


def test_balanced_accuracy_equals_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    labels, guess = generator.integers(3, size=60), generator.integers(3, size=60)
    expected = balanced_accuracy_score(labels, guess)
    assert point(balanced(guess == labels, labels), 60) == pytest.approx(expected)


def test_a_class_missed_by_a_draw_is_left_out_of_its_mean() -> None:
    of = balanced([1.0, 1, 0, 0], ["a", "a", "b", "b"])
    assert of(np.array([[1.0, 1, 0, 0]]))[0] == 1


def test_auroc_equals_scikit_learn_with_ties_and_under_weights() -> None:
    generator = np.random.default_rng(1)
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    scores = generator.integers(4, size=(10, 3)) / 4
    expected = np.mean([roc_auc_score(labels == c, scores[:, c], sample_weight=COUNTS) for c in range(3)])
    assert macro_auroc(scores, labels)(COUNTS[None].astype(float))[0] == pytest.approx(expected)


def test_where_selects_rows_by_truth_or_by_value() -> None:
    items = pd.DataFrame(
        {"correct": [True, False, True, False], "rare": [True, True, False, False], "way": list("aabb")}
    )
    assert point(statistic(Metric("x/y", "mean", "correct", "rare"), items), 4) == 0.5
    assert point(statistic(Metric("x/y", "mean", "correct", "way=b"), items), 4) == 0.5
    assert point(statistic(Metric("x/y", "mean", "rare", "correct=False"), items), 4) == 0.5


def test_a_missing_column_is_named() -> None:
    with pytest.raises(UserError, match="distance"):
        statistic(Metric("x/y", "mean", "distance"), pd.DataFrame({"id": ["a"]}))


def test_nothing_drawn_gives_nan_without_a_warning() -> None:
    assert np.isnan(mean([1.0])(np.zeros((1, 1)))[0])
    assert np.isnan(median([1.0])(np.zeros((1, 1)))[0])
