"""Recall among as many tiles as a region has."""

from __future__ import annotations

import numpy as np
import pytest

from core.evaluation.bag_regions import recall_at_count


@pytest.mark.parametrize(
    ("scores", "inside", "wanted"),
    [
        ([9, 8, 1, 0], [1, 1, 0, 0], 1.0),
        ([0, 1, 8, 9], [1, 1, 0, 0], 0.0),
        ([9, 1, 8, 0], [1, 1, 0, 0], 0.5),
        ([3, 3, 3, 3], [1, 0, 0, 0], 0.25),  # nothing is told apart: what is to be expected
        ([9, 3, 3, 3], [0, 1, 1, 0], 0.5 * (2 / 3)),  # one place left for three equal tiles, two of them inside
        ([9, 3, 3, 3], [1, 1, 0, 0], 0.5 * (1 + 1 / 3)),
    ],
)
def test_recall_among_the_highest(scores: list[float], inside: list[int], wanted: float) -> None:
    assert recall_at_count(scores, np.array(inside, dtype=bool)) == pytest.approx(wanted)


def test_equal_scores_count_as_random_ones_do() -> None:
    inside = np.random.default_rng(0).random(60) < 0.2
    shuffled = np.random.default_rng(1).random((4000, 60))
    mean = np.mean([recall_at_count(scores, inside) for scores in shuffled])
    assert recall_at_count(np.zeros(60), inside) == pytest.approx(mean, abs=0.01)
