"""Controls beside a pooled figure: on the same items, pooled as the figure is, or not told at all.

The mean over folds of a control that is no mean over items (R2, an area) is another quantity than the figure of all
items: the training mean has R2 far below 0 in small folds, and a figure beside it would look like a finding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from core.evaluation.arms import item_keys
from core.evaluation.intervals import Summary
from core.evaluation.metrics import Metric, point, statistic
from core.types import Figure

_CONSTANT = ("chance", "majority")  # they guess without looking at an item


def controls_of(
    metric: Metric,
    recorded: Sequence[Figure],
    tables: Mapping[str, Sequence[pd.DataFrame]],
    summaries: Mapping[str, Summary],
) -> dict[str, float]:
    """Values by control, in the order of the runs' own; what cannot be pooled is named in a printed line and left out.

    Args:
        metric: recipe of the figure.
        recorded: the figure in every run of the arm.
        tables: by evaluation the items of each seed.
        summaries: pooled figures of all evaluations, by name.
    """
    evaluation, _, short = metric.name.partition("/")
    known: dict[str, float] = {}
    for control in dict.fromkeys(name for figure in recorded for name in figure.controls):
        value = _evaluated(control, evaluation, short, tables, summaries)
        if value is None:
            value = _guessed(metric, control, tables[evaluation])
        if value is None:
            value = _averaged(metric, control, recorded, tables[evaluation])
        if value is None:
            print(
                f"left out of pooling: the control {control} of {metric.name}, which the runs cannot tell of all folds"
            )
        else:
            known[control] = value
    return known


def _evaluated(
    control: str,
    evaluation: str,
    short: str,
    tables: Mapping[str, Sequence[pd.DataFrame]],
    summaries: Mapping[str, Summary],
) -> float | None:
    """A control that was evaluated as such, on the very items of the figure: slides are no control of patients."""
    for own in (f"{control}_{evaluation}", control, f"floor_{control}"):
        if f"{own}/{short}" in summaries and _same_items(tables[own], tables[evaluation]):
            return summaries[f"{own}/{short}"].value
    return None


def _same_items(ones: Sequence[pd.DataFrame], others: Sequence[pd.DataFrame]) -> bool:
    return all(set(item_keys(one)) == set(item_keys(other)) for one, other in zip(ones, others, strict=True))


def _guessed(metric: Metric, control: str, tables: Sequence[pd.DataFrame]) -> float | None:
    """A control whose guess of each item is among the items, in a column ``<column>.<control>``."""
    column = f"{metric.column}.{control}"
    where, _, wanted = metric.where.partition("=")
    values = []
    for table in tables:
        if column not in table or not (table[column].notna() | table[metric.column].isna()).all():
            return None
        own = replace(metric, column=column)
        if _of_outcome(metric):  # the control's own errors, not those of the model; chance has one at every item
            theirs = f"{where}.{control}"
            there = theirs in table and table[theirs].notna().any()
            own = replace(own, where=f"{theirs}={wanted}" if there else "")
        values.append(point(statistic(own, table), len(table)))
    return float(np.mean(values))


def _averaged(metric: Metric, control: str, recorded: Sequence[Figure], tables: Sequence[pd.DataFrame]) -> float | None:
    """A control of which the runs have the value alone: exact where it is a mean over items, where every seed is one
    run, and where it is what a constant guess gets of any items."""
    counted = [figure for figure in recorded if figure.n > 0]
    if not counted or any(control not in figure.controls for figure in counted):
        return None
    values = [figure.controls[control] for figure in counted]
    mean_of_items = metric.kind == "mean" and not _of_outcome(metric)
    blind = control in _CONSTANT and len(set(values)) == 1
    always = blind and (control == "chance" or metric.kind not in ("mean", "median", "balanced", "r2"))
    if not (mean_of_items or always or len(recorded) == len(tables)):
        return None
    return float(np.average(values, weights=[figure.n for figure in counted]))


def _of_outcome(metric: Metric) -> bool:
    """Whether the figure is about items chosen by what the model said of them."""
    return metric.where.partition("=")[0] == "correct"
