"""Runs below a folder, what distinguishes them, and which are the same arm with another seed or fold.

Factors are found, not declared: keys of the resolved configs that differ. Keys that split the runs in the same way are
one factor; a subtree in which a ``_target_`` differs (an objective, a sampler) is one factor as a whole; seeds and
folds are repetitions, never factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from core.evaluation.metrics import Metric
from core.evaluation.tables import Results, read_results
from core.types import UserError

# where a run writes and how it is watched does not change what it finds
_IGNORED = ("output", "hydra", "logger", "resume", "debug", "dry_run", "allow_failures", "runs", "out", "loggers")
_FOLD = "data.split.fold"
_SEEDS = ("seed", "data.split.seed")


@dataclass(frozen=True)
class Run:
    """A run that ended: its folder, flattened config and results."""

    path: Path
    config: Mapping[str, Any]  # dotted key -> value
    results: Results

    @property
    def replicate(self) -> str:
        """Seeds of the run: runs of one replicate share their split."""
        return "/".join(str(self.config.get(key)) for key in _SEEDS)


@dataclass(frozen=True)
class Arm:
    """Runs that differ in seed and fold alone."""

    label: str
    levels: Mapping[str, str]  # factor -> level
    runs: tuple[Run, ...]

    @property
    def replicates(self) -> tuple[str, ...]:
        """Replicates of the arm, in order of appearance."""
        return tuple(dict.fromkeys(run.replicate for run in self.runs))

    def metrics(self) -> dict[str, Metric]:
        """Recipes that all runs of the arm have."""
        every = [run.results.metrics for run in self.runs]
        return {name: metric for name, metric in every[0].items() if all(name in other for other in every)}

    def items(self, replicate: str, evaluation: str) -> pd.DataFrame:
        """Items of one replicate, its folds put together.

        Raises:
            UserError: an item is there twice, so two runs claim the same seed and fold.
        """
        mine = [run for run in self.runs if run.replicate == replicate]
        items = pd.concat([run.results.items_of(evaluation) for run in mine], ignore_index=True)
        key = item_keys(items)
        if key.duplicated().any():
            raise UserError(
                f"item '{key[key.duplicated()].iloc[0]}' was evaluated twice with equal settings and seed",
                ", ".join(str(run.path) for run in mine),
                "leave one of the runs out",
            )
        return items


def item_keys(items: pd.DataFrame) -> pd.Series[str]:
    """What identifies an item within an evaluation: its id, and for a retrieval its direction."""
    ids: pd.Series[str] = items["id"].astype(str)
    if "direction" not in items.columns or items["direction"].isna().all():
        return ids
    return items["direction"].astype(str) + ":" + ids


def find_runs(folders: Sequence[str | Path]) -> tuple[list[Run], list[Path]]:
    """All runs at or below the folders that have results, in the order of their paths, and those without any.

    Raises:
        UserError: a folder does not exist, or none of them holds a run with results.
    """
    from omegaconf import OmegaConf

    configs: dict[Path, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"'{folder}' is no folder", "runs", "give run folders, or the folder of a multirun")
        for path in sorted(folder.rglob("config.yaml")):
            if path.parent.name != ".hydra":
                configs.setdefault(path.parent.resolve(), path)
    runs, unfinished = [], []
    for folder, path in configs.items():
        if not (folder / "summary.json").is_file():
            unfinished.append(folder)
            continue
        config = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        runs.append(Run(folder, _flatten(config), read_results(folder)))
    if not runs:
        raise UserError(
            f"no run with results below {', '.join(map(str, folders))}", "runs", "give the folder of runs that ended"
        )
    return runs, unfinished


def find_arms(runs: Sequence[Run]) -> tuple[list[Arm], list[str]]:
    """Groups runs into arms and names the factors in which they differ.

    A factor that only names what the others say together (``arm: group_metric_shuffled``) labels the arms.
    """
    levels = _factors(runs)
    naming = [name for name, values in levels.items() if len(levels) > 2 and _names_all(name, values, levels)]
    factors = [name for name in levels if name not in naming]
    grouped: dict[tuple[str, ...], list[int]] = {}
    for index in range(len(runs)):
        grouped.setdefault(tuple(levels[name][index] for name in factors), []).append(index)
    arms = []
    for combination, members in grouped.items():
        label = levels[naming[0]][members[0]] if naming else _label(dict(zip(factors, combination, strict=True)))
        arms.append(Arm(label or "all runs", dict(zip(factors, combination, strict=True)), _pick(runs, members)))
    return arms, factors


def _label(levels: Mapping[str, str]) -> str:
    """A whole subtree is named by its targets, a single key by ``key=value``; what is absent goes without saying."""
    said = [
        level if "." not in factor else f"{factor.rpartition('.')[2]}={level}"
        for factor, level in levels.items()
        if level not in ("none", "-")
    ]
    return ", ".join(said) or ", ".join(f"{factor}={level}" for factor, level in levels.items())


def _pick(runs: Sequence[Run], members: Sequence[int]) -> tuple[Run, ...]:
    return tuple(runs[index] for index in members)


def _factors(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Level of each run by factor, in the order of the config."""
    keys = list(dict.fromkeys(key for run in runs for key in run.config))
    differing = {}
    for key in keys:
        if key == _FOLD or key.split(".")[0] in _IGNORED:
            continue
        values = [_canonical(key, run.config.get(key)) for run in runs]
        if len(set(values)) > 1:
            differing[key] = values
    wholes = {key.split(".")[0] for key in differing if key.split(".")[-1] == "_target_"}
    parts: dict[str, dict[str, list[str]]] = {}
    for key, values in differing.items():
        top = key.split(".")[0]
        parts.setdefault(top if top in wholes else key, {})[key] = values
    factors: dict[tuple[int, ...], tuple[str, list[str]]] = {}
    for name, columns in parts.items():
        joint = list(zip(*columns.values(), strict=True))
        codes = tuple(joint.index(value) for value in joint)
        if codes not in factors:  # keys that split the runs alike are one factor, named by the first
            factors[codes] = (name, _labels(columns))
    return dict(factors.values())


def _labels(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Short names that still tell the levels apart: the targets' if they do, otherwise all differing values."""
    joint = list(zip(*columns.values(), strict=True))
    targets = [values for key, values in columns.items() if key.endswith("_target_")]
    short = list(zip(*targets, strict=True)) if targets else joint
    chosen = short if len(set(short)) == len(set(joint)) else joint
    return [" ".join(dict.fromkeys(value for value in values if value != "-")) or "-" for values in chosen]


def _names_all(name: str, values: Sequence[str], levels: Mapping[str, Sequence[str]]) -> bool:
    """Whether a factor splits the runs exactly as all the others do together."""
    others = list(zip(*(other for key, other in levels.items() if key != name), strict=True))
    return len(set(values)) == len(set(others)) == len(set(zip(values, others, strict=True)))


def _canonical(key: str, value: Any) -> str:
    last = key.split(".")[-1]
    if last == "seed" or last.endswith("_seed"):  # a seed is a repetition; whether there is one can be a factor
        return "none" if value is None else "set"
    if value is None:
        return "-"
    return str(value).rpartition(".")[2] if last == "_target_" else str(value)


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(config, Mapping):
        flat: dict[str, Any] = {}
        for key, value in config.items():
            flat.update(_flatten(value, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    return {prefix: config}
