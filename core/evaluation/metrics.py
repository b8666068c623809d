"""How one figure is computed from a table of items, for any weighting of them.

A bootstrap draw is a vector of weights (how often each item was drawn), so every statistic here maps weights
``[R, N]`` (R draws of N items) to ``[R]`` values, and one definition serves point values, intervals, paired
differences, pooled folds and comparisons of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.types import UserError

FloatArray = npt.NDArray[np.float64]
Statistic = Callable[[FloatArray], FloatArray]  # weights [R, N] -> values [R]; NaN where no item has weight


@dataclass(frozen=True)
class Metric:
    """The recipe of a figure; it is stored with the figure so that runs can be compared item by item."""

    name: str  # "zero_shot/leaf_accuracy"
    kind: Literal["mean", "median", "balanced", "auroc", "labels_auroc", "concordance", "kappa", "r2"]
    column: str  # of the items; for "auroc" a column of probability vectors; the last four are in `agreement.py`
    where: str = ""  # "" all items; "rare": items whose column `rare` is true; "direction=text_to_image": equal to
    better: Literal["higher", "lower"] = "higher"

    def as_dict(self) -> dict[str, str]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Metric:
        """Inverse of :meth:`as_dict`."""
        return cls(**stored)


def selected(metric: Metric, items: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which items a figure is about, [N]: those of ``where`` that have a value.

    Raises:
        UserError: the items lack a column that the metric names.
    """
    column, _, wanted = metric.where.partition("=")
    for needed in filter(None, (metric.column, column)):
        if needed not in items.columns:
            raise UserError(
                f"items have no column '{needed}', which {metric.name} needs", todo="evaluate the run again"
            )
    chosen = np.array(items[metric.column].notna(), dtype=bool)
    if wanted:
        chosen &= (items[column].astype(str) == wanted).to_numpy(dtype=bool)
    elif column:
        chosen &= items[column].fillna(False).astype(bool).to_numpy()
    return chosen


def statistic(metric: Metric, items: pd.DataFrame) -> Statistic:
    """The statistic of a metric on these items; it takes weights for all N of them, in their order."""
    chosen = selected(metric, items)
    rows = items.loc[chosen]
    if metric.kind == "auroc":
        scores = (
            np.stack([np.asarray(row, dtype=np.float64) for row in rows[metric.column]])
            if len(rows)
            else np.zeros((0, 0))
        )
        inner = macro_auroc(scores, rows["target"].to_numpy(dtype=np.int64))
    elif metric.kind in ("labels_auroc", "concordance", "kappa", "r2"):
        from core.evaluation.agreement import of_items  # builds on this module

        inner = of_items(metric.kind, metric.column, rows)
    else:
        values = rows[metric.column].to_numpy(dtype=np.float64)
        if metric.kind == "mean":
            inner = mean(values)
        elif metric.kind == "median":
            inner = median(values)
        else:
            inner = balanced(values, rows["label"].to_numpy())
    return lambda weights: inner(weights[:, chosen])


def mean(values: npt.ArrayLike) -> Statistic:
    """Weighted mean of ``values`` [N]."""
    array = np.asarray(values, dtype=np.float64)
    return lambda weights: _ratio(weights @ array, weights.sum(axis=1))


def median(values: npt.ArrayLike) -> Statistic:
    """Weighted median of ``values`` [N]: the middle of the repeated sample, halfway between two middle ones."""
    array = np.asarray(values, dtype=np.float64)
    order = np.argsort(array, kind="stable")
    ranked = array[order]

    def of(weights: FloatArray) -> FloatArray:
        if not len(ranked):
            return np.full(len(weights), np.nan)
        cumulative = weights[:, order].cumsum(axis=1)
        total = cumulative[:, -1]
        lower = ranked[np.minimum((cumulative < total[:, None] / 2).sum(axis=1), len(ranked) - 1)]
        upper = ranked[np.minimum((cumulative <= total[:, None] / 2).sum(axis=1), len(ranked) - 1)]
        return np.where(total > 0, (lower + upper) / 2, np.nan)

    return of


def balanced(values: npt.ArrayLike, labels: npt.ArrayLike) -> Statistic:
    """Mean over classes of the weighted mean in the class: balanced accuracy when ``values`` are 0 or 1.

    A class that a draw happens to miss is left out of that draw's mean.
    """
    array = np.asarray(values, dtype=np.float64)
    names, codes = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    member = np.zeros((len(array), len(names)))
    member[np.arange(len(array)), codes] = 1.0

    def of(weights: FloatArray) -> FloatArray:
        per_class = _ratio((weights * array) @ member, weights @ member)  # [R, C]
        there = ~np.isnan(per_class)
        return _ratio(np.where(there, per_class, 0.0).sum(axis=1), there.sum(axis=1))

    return of


def macro_auroc(scores: npt.ArrayLike, targets: npt.ArrayLike) -> Statistic:
    """Area under the ROC curve, one class against the rest, mean over the classes present.

    Args:
        scores: [N, C], any monotone score; ties count half.
        targets: [N] int, index of the true class.
    """
    table, truth = np.asarray(scores, dtype=np.float64), np.asarray(targets)
    prepared = []
    for code in np.unique(truth):
        order = np.argsort(table[:, code], kind="stable")
        ranked = table[order, code]
        first = np.searchsorted(ranked, ranked, side="left")
        last = np.searchsorted(ranked, ranked, side="right") - 1
        prepared.append((order, truth[order] == code, first, last))

    def of(weights: FloatArray) -> FloatArray:
        areas = np.full((len(weights), max(len(prepared), 1)), np.nan)
        for column, (order, positive, first, last) in enumerate(prepared):
            drawn = weights[:, order]
            negative = drawn * ~positive
            cumulative = negative.cumsum(axis=1)
            beaten = (cumulative[:, first] - negative[:, first] + cumulative[:, last]) / 2  # ties count half
            won = (drawn * positive * beaten).sum(axis=1)
            areas[:, column] = _ratio(won, (drawn * positive).sum(axis=1) * negative.sum(axis=1))
        there = ~np.isnan(areas)
        return _ratio(np.where(there, areas, 0.0).sum(axis=1), there.sum(axis=1))

    return of


def point(of: Statistic, n: int) -> float:
    """Value of a statistic on the items as they are."""
    return float(of(np.ones((1, n)))[0])


def _ratio(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> FloatArray:
    """Division that gives NaN, silently, where nothing was drawn."""
    out: FloatArray = np.full(np.shape(above), np.nan)
    np.divide(above, below, out=out, where=np.asarray(below) > 0)
    return out
