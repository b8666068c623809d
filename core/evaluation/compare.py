"""Values of arms and paired differences between them, over seeds and items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from core.evaluation.arms import Arm, item_keys
from core.evaluation.intervals import DRAWS, Draws, average, draw, summarise
from core.evaluation.metrics import Metric, statistic
from core.types import UserError

# controls are the same whatever the arm: they are shown beside the figures, not compared
_CONTROLS = ("resnet18", "floor_", "mean_of_instances")


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` prints and writes."""

    values: (
        pd.DataFrame
    )  # cohort, metric, better, arm, value, low, high, seeds, smallest, largest, n, units, unit, controls
    differences: (
        pd.DataFrame
    )  # cohort, metric, factor, level, against, averaged_over, difference, low, high, detectable, ...
    factors: tuple[str, ...]
    arms: tuple[str, ...]
    notes: tuple[str, ...]  # what could not be compared, and why


def compare(
    arms: Sequence[Arm], factors: Sequence[str], baseline: str | None = None, draws: int = DRAWS, seed: int = 0
) -> Comparison:
    """Compares arms metric by metric.

    A factor's difference is between two of its levels, with all other factors equal, averaged over those other
    factors; beside it stands each arm against the baseline arm. Runs are paired by seed and by item, and each cohort
    (data set) is compared by itself.

    Args:
        baseline: label of an arm, or a level (``infonce`` or ``objective=infonce``); by default the first run's arm.

    Raises:
        UserError: no such baseline, no figure in common, or paired runs were evaluated on different items.
    """
    values: list[dict[str, object]] = []
    differences: list[dict[str, object]] = []
    notes: list[str] = []
    for cohort in dict.fromkeys(arm.cohort for arm in arms):
        mine = [arm for arm in arms if arm.cohort == cohort]
        found, differing, said = _compare(mine, factors, _baseline(mine, baseline), draws, seed)
        values += [{"cohort": cohort, **row} for row in found]
        differences += [{"cohort": cohort, **row} for row in differing]
        notes += said
    return Comparison(
        pd.DataFrame(values),
        pd.DataFrame(differences),
        tuple(factors),
        tuple(dict.fromkeys(arm.label for arm in arms)),
        tuple(dict.fromkeys(notes)),
    )


def _compare(
    arms: Sequence[Arm], factors: Sequence[str], reference: int, draws: int, seed: int
) -> tuple[list[dict[str, object]], list[dict[str, object]], list[str]]:
    """Values, differences and notes of the arms of one cohort."""
    shared = arms[0].metrics()
    shared = {name: metric for name, metric in shared.items() if all(name in arm.metrics() for arm in arms)}
    if not shared:
        raise UserError("the runs have no figure in common", "runs", "evaluate them in the same way")
    notes = [f"{name} is not in all arms" for arm in arms for name in arm.metrics() if name not in shared]
    values, differences = [], []
    for evaluation in dict.fromkeys(name.partition("/")[0] for name in shared):
        if evaluation.startswith(_CONTROLS) and len(arms) > 1:
            continue
        tables = _aligned(arms, evaluation)
        every = np.unique(np.concatenate([t["unit"].astype(str) for of_arm in tables for t in of_arm.values()]))
        for metric in (m for name, m in shared.items() if name.partition("/")[0] == evaluation):
            drawn = [_draw(metric, of_arm, every, draws, seed) for of_arm in tables]
            for arm, of_arm, table in zip(arms, drawn, tables, strict=True):
                values.append(_value_row(metric, arm, of_arm, table, seed))
            for factor, level, against, pairs in _contrasts(arms, factors, reference):
                seeds = _common(tables, pairs)
                if not seeds:
                    notes.append(f"{level} and {against} have no seed in common")
                    continue
                sides = [(_take(drawn[a], tables[a], seeds), _take(drawn[b], tables[b], seeds)) for a, b in pairs]
                paired = average([one - other for one, other in sides])
                differences.append(_difference_row(metric, factor, level, against, len(pairs), paired, seed))
    return values, differences, notes


def _baseline(arms: Sequence[Arm], wanted: str | None) -> int:
    if wanted is None:
        return 0
    for index, arm in enumerate(arms):
        named = [text for factor, level in arm.levels.items() for text in (level, f"{factor}={level}")]
        if wanted in (arm.label, *named):
            return index
    labels = "; ".join(arm.label for arm in arms)
    raise UserError(f"no arm is called '{wanted}'", "compare.baseline", f"choose one of: {labels}")


def _contrasts(
    arms: Sequence[Arm], factors: Sequence[str], reference: int
) -> Iterator[tuple[str, str, str, list[tuple[int, int]]]]:
    """Factor, level, level it is held against, and the pairs of arms that differ in nothing else."""
    for factor in factors:
        levels = list(dict.fromkeys(arm.levels[factor] for arm in arms))
        first = arms[reference].levels[factor]
        levels.sort(key=lambda level: level != first)  # stable: the baseline's level stands on the right
        for against, level in combinations(levels, 2):
            pairs = [
                (a, b)
                for a, one in enumerate(arms)
                for b, other in enumerate(arms)
                if one.levels == {**other.levels, factor: level} and other.levels[factor] == against
            ]
            if pairs:
                yield factor, level, against, pairs
    if len(factors) > 1:
        for index, arm in enumerate(arms):
            if index != reference:
                yield "arm", arm.label, arms[reference].label, [(index, reference)]


def _aligned(arms: Sequence[Arm], evaluation: str) -> list[dict[str, pd.DataFrame]]:
    """Items by arm and replicate, sorted by what identifies them.

    Raises:
        UserError: two arms were evaluated on different items under one seed.
    """
    tables: list[dict[str, pd.DataFrame]] = []
    first: dict[str, tuple[Arm, pd.DataFrame]] = {}
    for arm in arms:
        mine = {}
        for replicate in arm.replicates:
            items = arm.items(replicate, evaluation)
            items = items.assign(key=item_keys(items)).sort_values("key", kind="stable", ignore_index=True)
            other, expected = first.setdefault(replicate, (arm, items))
            _refuse_unequal(arm, items, other, expected, replicate, evaluation)
            mine[replicate] = items
        tables.append(mine)
    return tables


def _refuse_unequal(
    arm: Arm, items: pd.DataFrame, other: Arm, expected: pd.DataFrame, replicate: str, evaluation: str
) -> None:
    columns = ["key", "unit"] + [name for name in ("label",) if name in items and name in expected]
    # a retrieval has no label: NaN there, which must equal itself
    ours, theirs = (table[columns].astype(object).fillna("").astype(str) for table in (items, expected))
    if len(items) == len(expected) and (ours == theirs).all(axis=None):
        return
    lost = sorted(set(items["key"]) ^ set(expected["key"]))
    what = f"{len(lost)} items are in one alone (such as '{lost[0]}')" if lost else "labels or units of items differ"
    paths = [str(run.path) for one in (other, arm) for run in one.runs if run.replicate == replicate]
    raise UserError(
        f"cannot pair '{other.label}' with '{arm.label}' (seed {replicate}, {evaluation}): "
        f"{len(expected)} and {len(items)} items, {what}",
        ", ".join(paths),
        "compare runs with the same data, split and folds",
    )


def _draw(
    metric: Metric,
    tables: Mapping[str, pd.DataFrame],
    every: np.ndarray[tuple[int], np.dtype[np.str_]],
    draws: int,
    seed: int,
) -> Draws:
    statistics = [statistic(metric, items) for items in tables.values()]
    return draw(statistics, [items["unit"].astype(str) for items in tables.values()], every, draws, seed)


def _common(tables: Sequence[Mapping[str, pd.DataFrame]], pairs: Sequence[tuple[int, int]]) -> list[str]:
    involved = {index for pair in pairs for index in pair}
    first = min(involved)
    return [seed for seed in tables[first] if all(seed in tables[index] for index in involved)]


def _take(drawn: Draws, tables: Mapping[str, pd.DataFrame], seeds: Sequence[str]) -> Draws:
    columns = [list(tables).index(seed) for seed in seeds]
    return Draws(drawn.points[columns], drawn.values[:, columns], drawn.units)


def _value_row(
    metric: Metric, arm: Arm, drawn: Draws, tables: Mapping[str, pd.DataFrame], seed: int
) -> dict[str, object]:
    summary = summarise(drawn, seed)
    figures = [figure for run in arm.runs for figure in run.results.figures if figure.name == metric.name]
    controls = {
        name: float(np.mean([f.controls[name] for f in figures if name in f.controls])) for name in figures[0].controls
    }
    return {
        "metric": metric.name,
        "better": metric.better,
        "arm": arm.label,
        "value": summary.value,
        "low": summary.low,
        "high": summary.high,
        "seeds": summary.replicates,
        "smallest": summary.spread[0],
        "largest": summary.spread[1],
        "n": int(np.mean([len(items) for items in tables.values()])),
        "units": summary.units,
        "unit": figures[0].unit,
        "controls": controls,
        "note": figures[0].note,
    }


def _difference_row(
    metric: Metric, factor: str, level: str, against: str, pairs: int, paired: Draws, seed: int
) -> dict[str, object]:
    summary = summarise(paired, seed)
    return {
        "metric": metric.name,
        "better": metric.better,
        "factor": factor,
        "level": level,
        "against": against,
        "averaged_over": pairs,
        "difference": summary.value,
        "low": summary.low,
        "high": summary.high,
        "smallest_detectable": summary.detectable,
        "verdict": summary.verdict(metric.better),
        "seeds": summary.replicates,
        "units": summary.units,
    }
