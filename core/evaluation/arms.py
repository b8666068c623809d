"""Runs below a folder, what distinguishes them, and which are the same arm with another seed or fold.

Factors are found, not declared: keys of the resolved configs that differ. Keys that split the runs in the same way are
one factor; a subtree in which a ``_target_`` differs (an objective, a sampler) is one factor as a whole; seeds and
folds are repetitions, never factors. Where arms are repeated on several data sets, each data set is a cohort of its
own: arms are compared within it.
"""

from __future__ import annotations

import json
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
_DATA = ("manifest", "manifest_options", "data.phantom", "data.split", "data.name", "data.label", "data.resolution")
_FOLD = "data.split.fold"
_SEEDS = ("seed", "data.split.seed")


@dataclass(frozen=True)
class Run:
    """A run that ended: its folder, flattened config and results."""

    path: Path
    config: Mapping[str, Any]  # dotted key -> value, after the choices of config groups (``objective: infonce``)
    results: Results

    @property
    def replicate(self) -> str:
        """Seeds of the run: runs of one replicate share their split."""
        return "/".join(str(self.config.get(key)) for key in _SEEDS)


@dataclass(frozen=True)
class Arm:
    """Runs that differ in seed and fold alone."""

    label: str
    cohort: str  # the data set, where there are several
    levels: Mapping[str, str]  # factor -> level
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """Cohort and label, where there are any."""
        return ", ".join(filter(None, (self.cohort, self.label)))

    @property
    def replicates(self) -> tuple[str, ...]:
        """Replicates of the arm, in order of appearance."""
        return tuple(dict.fromkeys(run.replicate for run in self.runs))

    def metrics(self) -> dict[str, Metric]:
        """Recipes that all runs of the arm have."""
        every = [run.results.metrics for run in self.runs]
        return {name: metric for name, metric in every[0].items() if all(name in other for other in every)}

    def left_out(self) -> dict[str, int]:
        """Figures that only some runs of the arm have, with the number of runs that lack them."""
        every = [run.results.metrics for run in self.runs]
        lacking = {name: sum(name not in other for other in every) for metrics in every for name in metrics}
        return {name: missing for name, missing in lacking.items() if missing}

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
        runs.append(Run(folder, _config(path), read_results(folder)))
    if not runs:
        raise UserError(
            f"no run with results below {', '.join(map(str, folders))}", "runs", "give the folder of runs that ended"
        )
    return runs, unfinished


def find_arms(runs: Sequence[Run]) -> tuple[list[Arm], list[str]]:
    """Groups runs into arms and names the factors in which they differ.

    A factor that only names what the others say together (``arm: group_metric_shuffled``) labels the arms.
    """
    data = _factors(runs, of_data=True)
    cohorts = [", ".join(_said(key, level) for key, level in zip(data, row, strict=True)) for row in _rows(runs, data)]
    levels = _factors(runs, of_data=False)
    if data and not levels:  # runs that differ in their data alone are arms: a moved copy can be paired, others not
        levels, cohorts = data, [""] * len(runs)
    naming = [name for name, values in levels.items() if len(levels) > 2 and _names_all(name, values, levels)]
    factors = [name for name in levels if name not in naming]
    kept = {name: levels[name] for name in factors}
    grouped: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for index, combination in enumerate(_rows(runs, kept)):
        grouped.setdefault((cohorts[index], combination), []).append(index)
    arms = []
    for (cohort, combination), members in grouped.items():
        chosen = dict(zip(factors, combination, strict=True))
        label = levels[naming[0]][members[0]] if naming else _label(chosen)
        arms.append(Arm(label or "all runs", cohort, chosen, tuple(runs[index] for index in members)))
    return arms, factors


def _rows(runs: Sequence[Run], levels: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Levels of each run."""
    return [tuple(values[index] for values in levels.values()) for index in range(len(runs))]


def _said(factor: str, level: str) -> str:
    return f"{factor.rpartition('.')[2]}={level}"


def _label(levels: Mapping[str, str]) -> str:
    """A whole subtree is named by its level, a single key by ``key=value``; what is absent goes without saying."""
    said = [
        level if "." not in factor else _said(factor, level)
        for factor, level in levels.items()
        if level not in ("none", "-")
    ]
    return ", ".join(said) or ", ".join(f"{factor}={level}" for factor, level in levels.items())


def _factors(runs: Sequence[Run], of_data: bool) -> dict[str, list[str]]:
    """Level of each run by factor, in the order of the config; either of the data or of the method."""
    differing = {}
    for key in dict.fromkeys(key for run in runs for key in run.config):
        about_data = any(key == prefix or key.startswith(f"{prefix}.") for prefix in _DATA)
        if key == _FOLD or key.split(".")[0] in _IGNORED or about_data != of_data:
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
    """Short names that still tell the levels apart: what was chosen, else the targets, else all differing values."""
    joint = list(zip(*columns.values(), strict=True))
    choices = [values for key, values in columns.items() if "." not in key and "-" not in values]
    targets = [values for key, values in columns.items() if key.endswith("_target_")]
    names = [list(zip(*short, strict=True)) for short in (choices, targets) if short]
    chosen = next((short for short in names if len(set(short)) == len(set(joint))), joint)
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


def _config(path: Path) -> dict[str, Any]:
    """Choices made on the command line, then the resolved config; of an evaluation, those of the run it evaluated."""
    from omegaconf import OmegaConf

    flat = _flatten(OmegaConf.to_container(OmegaConf.load(path), resolve=True))
    state = path.parent / "status.json"
    said = json.loads(state.read_text(encoding="utf-8")).get("overrides", []) if state.is_file() else []
    words = dict(text.lstrip("+").split("=", 1) for text in said if "=" in text and not text.startswith("~"))
    leaves = set(flat) | {"experiment"}
    choices = {key: value for key, value in words.items() if key not in leaves and "@" not in key}
    trained = flat.pop("run", None)
    if trained and (Path(trained) / "config.yaml").is_file():
        return {**_config(Path(trained) / "config.yaml"), **flat}
    return {**choices, **flat}


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(config, Mapping):
        flat: dict[str, Any] = {}
        for key, value in config.items():
            flat.update(_flatten(value, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    return {prefix: config}
