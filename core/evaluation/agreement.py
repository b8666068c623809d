"""Statistics of what bags are predicted to be: quadratic kappa of grades, R2 of numbers, AUROC of several labels.

Like those of :mod:`core.evaluation.metrics`, whose recipes name them, they map weights [R, N] to [R] values.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.evaluation.metrics import FloatArray, Statistic, macro_auroc
from core.evaluation.survival import concordance


def of_items(kind: str, column: str, rows: pd.DataFrame) -> Statistic:
    """The statistic of a metric's kind on rows of items.

    Beside ``column``, ``concordance`` reads time and event, ``kappa`` and ``r2`` read target, and ``labels_auroc``
    reads the truths that belong to a column of probabilities: ``targets`` (vectors) to ``probabilities``, and
    ``targets.necrosis`` (numbers) to ``probabilities.necrosis``.
    """
    if kind == "concordance":
        return concordance(rows["time"].to_numpy(), rows["event"].to_numpy(dtype=bool), rows[column].to_numpy())
    if kind == "kappa":
        return quadratic_kappa(rows[column].to_numpy(), rows["target"].to_numpy())
    if kind == "r2":
        return r2(rows[column].to_numpy(), rows["target"].to_numpy())
    return labels_auroc(_table(rows[column]), _table(rows[column.replace("probabilities", "targets", 1)]))


def quadratic_kappa(predictions: npt.ArrayLike, targets: npt.ArrayLike) -> Statistic:
    """Cohen's kappa with quadratic weights (1968): 1 is agreement, 0 is chance at these frequencies of both.

    Args:
        predictions: [N] int grades. targets: [N] int grades.
    """
    guess, truth = np.asarray(predictions, dtype=np.float64), np.asarray(targets, dtype=np.float64)

    def of(weights: FloatArray) -> FloatArray:
        total = weights.sum(axis=1)
        seen = weights @ np.square(guess - truth)
        # the expected square of independent grades, sum_ab p_a q_b (a - b)^2, by its moments
        first, second = weights @ guess, weights @ truth
        squares = weights @ np.square(guess) + weights @ np.square(truth)
        by_chance = squares - 2 * _ratio(first * second, total)
        return 1 - _ratio(seen, by_chance)

    return of


def r2(predictions: npt.ArrayLike, targets: npt.ArrayLike) -> Statistic:
    """Share of the targets' variance explained; below 0 where the mean of the items would have done better.

    Args:
        predictions: [N]. targets: [N].
    """
    guess, truth = np.asarray(predictions, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    centred = truth - truth.mean() if len(truth) else truth  # a large level would cancel in the variance

    def of(weights: FloatArray) -> FloatArray:
        square = weights @ np.square(centred)
        variation = square - _ratio(np.square(weights @ centred), weights.sum(axis=1))
        variation = np.where(variation > 1e-12 * square, variation, 0.0)  # a draw of one value has none but rounding
        return 1 - _ratio(weights @ np.square(guess - truth), variation)

    return of


def labels_auroc(probabilities: npt.ArrayLike, targets: npt.ArrayLike) -> Statistic:
    """Area under the ROC curve of each label, mean over the labels of which both values are there.

    Args:
        probabilities: [N, L]. targets: [N, L] 1, 0 or NaN (unknown: the item does not count for that label).
    """
    scores, truths = np.asarray(probabilities, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    parts = []
    for score, truth in zip(scores.T, truths.T, strict=True):
        known = ~np.isnan(truth)
        parts.append((known, macro_auroc(np.stack([-score[known], score[known]], axis=1), truth[known].astype(int))))

    def of(weights: FloatArray) -> FloatArray:
        areas = np.stack([inner(weights[:, known]) for known, inner in parts], axis=1)
        there = ~np.isnan(areas)
        return _ratio(np.where(there, areas, 0.0).sum(axis=1), there.sum(axis=1).astype(np.float64))

    return of


def _table(column: pd.Series) -> FloatArray:
    """Numbers or vectors of a column, [N, L]."""
    if not len(column):
        return np.zeros((0, 1))
    return np.stack([np.atleast_1d(np.asarray(value, dtype=np.float64)) for value in column])


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    out: FloatArray = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out
