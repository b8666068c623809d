"""Cross-validation: the folds of a seed are pooled before a figure is computed, then seeds are averaged.

A fold of twenty tiles makes one tile five points of accuracy, so the mean over folds is not what is reported: every
item is predicted once a seed, the figure is that of all items, and the spread is that over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from core.evaluation.arms import Arm, find_arms, find_runs
from core.evaluation.intervals import DRAWS, draw, summarise
from core.evaluation.metrics import statistic
from core.evaluation.pooled_controls import controls_of
from core.evaluation.tables import write_json
from core.files import atomic_write


@dataclass(frozen=True)
class PooledFigure:
    """A figure over all folds, averaged over seeds."""

    arm: str
    name: str
    value: float
    low: float  # 95 % over seeds and units
    high: float
    smallest: float  # of the seeds
    largest: float
    standard_error: float  # of the mean over seeds; NaN for one
    seeds: int
    folds: int  # runs a seed
    n: int  # items a seed
    units: int
    unit: str
    controls: Mapping[str, float]  # of the same items, pooled like the figure
    floors: Mapping[str, float]  # stated in evaluation.floors
    better: str

    @property
    def below(self) -> tuple[str, ...]:
        """Floors that the value, to three digits, does not reach, whatever the interval says."""
        sign = 1 if self.better == "higher" else -1
        return tuple(name for name, floor in self.floors.items() if sign * (round(self.value, 3) - floor) < 0)


def pooled(
    folder: str | Path, floors: Mapping[str, Any] | None = None, draws: int = DRAWS, console: Console | None = None
) -> list[PooledFigure]:
    """Pools the runs below a sweep's folder, writes ``pooled.csv`` and ``pooled.json`` into it and prints a table.

    Args:
        folder: of the sweep; runs that differ in seed and fold alone are one arm.
        floors: by short figure name (``leaf_accuracy``) a value, or values by name; they hold for every evaluator. By
            default those of the runs' own ``evaluation.floors``.

    Raises:
        UserError: no run with results, or an item was evaluated twice under one seed.
    """
    runs, _ = find_runs([folder])
    arms, _ = find_arms(runs)
    known = stated_floors(runs[0].config) if floors is None else floors
    figures = [figure for arm in arms for figure in _of_arm(arm, known, draws)]
    rows = []
    for figure in figures:
        row = asdict(figure)
        row["controls"] = "; ".join(f"{name} {value:.3f}" for name, value in figure.controls.items())
        row["floors"] = "; ".join(f"{name} {value:.3f}" for name, value in figure.floors.items())
        rows.append({**row, "below_floor": "; ".join(figure.below)})
    with atomic_write(Path(folder) / "pooled.csv") as path:
        pd.DataFrame(rows).to_csv(path, index=False)
    write_json(Path(folder) / "pooled.json", [{**asdict(f), "below_floor": list(f.below)} for f in figures])
    (console or Console()).print(show(figures))
    return figures


def stated_floors(config: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """``evaluation.floors`` of a flattened config, by figure."""
    floors: dict[str, dict[str, float]] = {}
    for key, value in config.items():
        if key.startswith("evaluation.floors.") and value is not None:
            figure, _, name = key.removeprefix("evaluation.floors.").partition(".")
            floors.setdefault(figure, {})[name or "floor"] = float(value)
    return floors


def floors_of(floors: Mapping[str, Any], name: str) -> Any:
    """Floors of one figure. Those of another set are stated by its evaluator's name (``external_probe/accuracy``); a
    short name (``accuracy``) holds for every evaluator of the run's own set."""
    evaluation, _, short = name.partition("/")
    return floors.get(name, {} if evaluation.startswith("external") else floors.get(short, {}))


def show(figures: Sequence[PooledFigure]) -> Table:
    """A rich table of pooled figures; what is below a floor says so."""
    table = Table(title="All folds pooled, mean over seeds", title_justify="left")
    for name in ("figure", "value", "95 % interval", "seeds", "n", "controls", "floors"):
        table.add_column(name, justify="right" if name in ("value", "n") else "left")
    several = len({figure.arm for figure in figures}) > 1
    for figure in figures:
        interval = "-" if math.isnan(figure.low) else f"{figure.low:.3f} to {figure.high:.3f}"
        error = "" if math.isnan(figure.standard_error) else f", SE {figure.standard_error:.3f}"
        seeds = f"{figure.seeds} ({figure.smallest:.3f} to {figure.largest:.3f}{error})"
        controls = ", ".join(f"{name} {value:.3f}" for name, value in figure.controls.items())
        floors = ", ".join(
            f"[bold red]BELOW FLOOR {name} {value:.3f}[/]" if name in figure.below else f"{name} {value:.3f}"
            for name, value in figure.floors.items()
        )
        name = f"{figure.arm}: {figure.name}" if several else figure.name
        table.add_row(name, f"{figure.value:.3f}", interval, seeds, str(figure.n), controls, floors)
    return table


def _of_arm(arm: Arm, floors: Mapping[str, Any], draws: int) -> list[PooledFigure]:
    metrics = arm.metrics()
    for name, missing in arm.left_out().items():
        print(f"left out of pooling: {name}, missing in {missing} of {len(arm.runs)} runs")
    evaluations = dict.fromkeys(name.partition("/")[0] for name in metrics)
    tables = {name: [arm.items(seed, name) for seed in arm.replicates] for name in evaluations}
    summaries = {}
    for name, metric in metrics.items():
        items = tables[name.partition("/")[0]]
        statistics = [statistic(metric, table) for table in items]
        summaries[name] = summarise(draw(statistics, [table["unit"].astype(str) for table in items], draws=draws))
    figures = []
    for name, summary in summaries.items():
        items, stated = tables[name.partition("/")[0]], floors_of(floors, name)
        recorded = [figure for run in arm.runs for figure in run.results.figures if figure.name == name]
        figures.append(
            PooledFigure(
                arm.name,
                name,
                summary.value,
                summary.low,
                summary.high,
                *summary.spread,
                summary.standard_error,
                summary.replicates,
                round(len(arm.runs) / len(items)),
                round(float(np.mean([len(table) for table in items]))),
                summary.units,
                recorded[0].unit,
                controls_of(metrics[name], recorded, tables, summaries),
                dict(stated) if isinstance(stated, Mapping) else {"floor": float(stated)},
                metrics[name].better,
            )
        )
    return figures
