"""Made runs on disk: real files of a run, with results drawn from a known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from core.evaluation.classification import classification
from core.evaluation.cohort import Classes, Cohort
from core.evaluation.tables import write_results

NAMES = ("adenoma", "carcinoma", "mucosa", "stroma")

# the six arms of the claim, as the resolved configs of a sweep have them
GRAPH = {"_target_": "core.types.Policy.graph", "ancestors": "excluded"}
INFONCE = {
    "_target_": "core.objectives.softmax.SoftmaxContrastive",
    "policy": {"_target_": "core.types.Policy.diagonal"},
}
TARGETS = {"_target_": "core.objectives.softmax.SoftmaxContrastive", "policy": GRAPH}
METRIC = {"_target_": "core.objectives.group_metric.GroupMetric", "policy": GRAPH}
UNIFORM = {"_target_": "core.data.samplers.UniformSampler"}
GROUPS = {"_target_": "core.data.samplers.GroupSampler", "per_group": 4}


def arm(sampler: dict[str, Any], objective: dict[str, Any], shuffle_seed: int | None = None) -> dict[str, Any]:
    """What an arm of the claim changes in the config."""
    return {"sampler": sampler, "objective": objective, "knowledge": {"shuffle_seed": shuffle_seed}}


def made_run(
    folder: Path,
    *,
    seed: int,
    accuracy: float,
    config: dict[str, Any] | None = None,
    items: int = 120,
    fold: int | None = None,
    prefix: str = "item",
) -> Path:
    """One run whose predictions are right with probability ``accuracy``; labels depend on the seed alone.

    Items come two a patient. Which items are hard is shared by all runs of a seed, as it is in life.
    """
    truth = np.random.default_rng([seed, 1, fold or 0])
    labels = truth.integers(len(NAMES), size=items)
    hardness = truth.random(items)
    own = np.random.default_rng([seed, 2, round(accuracy * 1000)])
    right = 0.7 * hardness + 0.3 * own.random(items) < accuracy
    guess = np.where(right, labels, (labels + 1 + own.integers(len(NAMES) - 1, size=items)) % len(NAMES))
    probabilities = np.full((items, len(NAMES)), 0.1)
    probabilities[np.arange(items), guess] = 0.7
    offset = 1000 * (fold or 0)
    ids = [f"{prefix}{offset + i}" for i in range(items)]
    units = [f"patient{(offset + i) // 2}" for i in range(items)]
    cohort = Cohort(ids, units, "patient", "synthetic", draws=200)
    classes = Classes(NAMES, np.array([40, 30, 20, 2]))
    write_results(folder, [classification("zero_shot", probabilities, labels, classes, cohort)])
    whole = {"seed": seed, "data": {"split": {"seed": None, "fold": fold}}, "output": {"id": folder.name}}
    OmegaConf.save(OmegaConf.merge(whole, config or {}), folder / "config.yaml")
    return folder
