"""What was evaluated and how its figures are made: items, independent units, classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.evaluation.hierarchy import Hierarchy
from core.evaluation.intervals import DRAWS, bootstrap, count_units
from core.evaluation.metrics import Metric, selected, statistic
from core.types import Evaluation, Figure, UserError

NO_INTERVAL = "no interval with fewer than two independent units"  # remarks on one figure, behind what is said of all
NO_WIDTH = "all draws agree, so the interval has no width: do not read it as certain"
Controls = Mapping[str, Mapping[str, float]]  # control -> short name of a figure -> its value


@dataclass(frozen=True)
class Cohort:
    """The N evaluated items in their order, and how intervals are drawn."""

    ids: Sequence[str]  # [N] manifest ids
    units: Sequence[str]  # [N] the independent unit of each: what is resampled
    unit: str = "item"  # what a unit is: "patient", "image", "chapter"
    note: str = ""  # shown with every figure: "synthetic", "text-prompted"
    draws: int = DRAWS
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.units):
            raise ValueError(f"{len(self.ids)} ids and {len(self.units)} units")
        if not len(self.ids):
            raise UserError("there is nothing to evaluate: the split is empty", todo="check split and fold")


@dataclass(frozen=True)
class Classes:
    """The C classes, where they sit, and how often training showed each."""

    names: tuple[str, ...]
    train_counts: npt.NDArray[np.int64]  # [C] items of each class in the training split
    hierarchy: Hierarchy | None = None
    rare_share: float = 0.05  # a class with less than this share of the training items is rare

    @property
    def rare(self) -> npt.NDArray[np.bool_]:
        """[C] which classes are rare in training (a class that is absent there is)."""
        return self.train_counts < self.rare_share * max(int(self.train_counts.sum()), 1)

    @property
    def majority(self) -> int:
        """The class most frequent in training."""
        return int(self.train_counts.argmax())


def make_evaluation(
    name: str,
    items: pd.DataFrame,
    metrics: Sequence[Metric],
    cohort: Cohort,
    controls: Controls,
    details: Mapping[str, object] | None = None,
) -> Evaluation:
    """Figures of a table of items, each with its interval and the controls that are known for it.

    Args:
        name: of the evaluator; metric names are ``name/short``.
        items: columns ``id``, ``unit`` and those the metrics name.
        controls: values by control and the short name of a figure.
        details: JSON-able; the metrics' recipes are added, so that runs can be compared item by item.
    """
    figures = [_figure(metric, items, cohort, _controls_of(metric, name, controls)) for metric in metrics]
    recipes = {metric.name: metric.as_dict() for metric in metrics}
    return Evaluation(name, items, figures, {**(details or {}), "metrics": recipes})


def as_control(evaluation: Evaluation) -> dict[str, float]:
    """Values of an evaluation by short name, to stand beside another one's figures."""
    return {figure.name.removeprefix(f"{evaluation.name}/"): figure.value for figure in evaluation.figures}


def _controls_of(metric: Metric, name: str, controls: Controls) -> dict[str, float]:
    short = metric.name.removeprefix(f"{name}/")
    return {control: float(values[short]) for control, values in controls.items() if short in values}


def _figure(metric: Metric, items: pd.DataFrame, cohort: Cohort, controls: Mapping[str, float]) -> Figure:
    units = items["unit"].to_numpy()
    chosen = selected(metric, items)
    interval = bootstrap(statistic(metric, items), units, cohort.draws, cohort.seed)
    independent = count_units(units[chosen])
    note = cohort.note
    if independent < 2:  # also when another part of the items has units: this figure does not
        interval = interval._replace(low=np.nan, high=np.nan)
        note = "; ".join(filter(None, [note, NO_INTERVAL]))
    elif interval.low == interval.high:  # a bootstrap cannot see what the sample does not show
        note = "; ".join(filter(None, [note, NO_WIDTH]))
    return Figure(
        metric.name, *interval, n=int(chosen.sum()), units=independent, unit=cohort.unit, controls=controls, note=note
    )
