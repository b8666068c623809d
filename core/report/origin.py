"""What a run says of itself, for its report: what was run, on which data, what became of its inputs.

Of restricted data nothing is told that could name them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from core.data.sharing import WITHHELD
from core.evaluation.tables import Results
from core.report import page
from core.report.wording import units

_FAILURES = 50  # rows shown
# what a config says about method and never about data: all that is shown of a run on restricted data
_METHOD = ("seed", "model", "objective", "sampler", "task", "step", "optimiser", "schedule", "trainer", "relations")


def title(folder: Path, config: Mapping[str, Any], restricted: bool) -> str:
    """Domain and experiment; a run without one says what data it had."""
    domain = str(page.get(config, "trivium.domain") or "").rpartition(".")[2]
    name = config.get("experiment") or _chosen(folder, "experiment")
    if not name and not restricted:
        name = page.get(config, "data.name")
    if not name and not restricted:
        name = "synthetic cohort" if config.get("manifest") is None else Path(str(config["manifest"])).stem
    words = " · ".join(part.replace("_", " ") for part in (domain, str(name or "")) if part)
    return (words[:1].upper() + words[1:]) or "Trivium run"


def _chosen(folder: Path, group: str) -> str:
    """What the command line chose of a config group, from ``status.json``; empty when it did not."""
    path = folder / "status.json"
    said = json.loads(path.read_text(encoding="utf-8")).get("overrides", []) if path.is_file() else []
    return next((text.partition("=")[2] for text in said if text.partition("=")[0] == group), "")


def subtitle(folder: Path, config: Mapping[str, Any], restricted: bool) -> str:
    """Which run, and how it was trained, in one line."""
    parts = [WITHHELD] if restricted else [folder.name]
    keys = ("aggregator", "bag_task") if config.get("road") == "bags" else ("objective",)
    learner = ", ".join(
        name for key in keys if (name := str(page.get(config, f"{key}._target_") or "").rpartition(".")[2])
    )
    steps, seed = page.get(config, "schedule.steps"), config.get("seed")
    parts += [learner] if learner else []
    parts += [f"{steps} optimiser steps"] if steps else []
    parts += [f"seed {seed}"] if seed is not None else []
    return " · ".join(parts)


def data_lines(config: Mapping[str, Any], results: Results, restricted: bool) -> list[str]:
    """What the figures rest on, a sentence a line."""
    lines = []
    synthetic = any("synthetic" in figure.note for figure in results.figures)
    name = page.get(config, "data.name")
    manifest = config.get("manifest")
    if synthetic:
        lines.append("A synthetic cohort made by the domain's phantom: figures prove a mechanism, not use on patients.")
    elif restricted:
        lines.append("Real data that may not be shared.")
    elif name or manifest:
        lines.append(f"{name or Path(str(manifest)).name}.")
    if any("text-prompted" in figure.note for figure in results.figures):
        lines.append("Captions were made from labels through templates: the figures are text-prompted supervision.")
    for key in () if restricted else ("attribution", "licence"):
        if page.get(config, f"data.{key}"):
            lines.append(f"{key.capitalize()}: {page.get(config, f'data.{key}')}")
    if results.figures:
        first = results.figures[0]
        lines.append(f"{first.n} evaluated items of {units(first)}.")
    return lines


def inputs(folder: Path, restricted: bool) -> dict[str, Any]:
    """Counts of the inputs' fates, and the first of those that were not ok."""
    path = folder / "status.csv"
    if not path.is_file():
        return {"statuses": "", "failures": [], "more_failures": 0}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = pd.Series([row.get("status", "") for row in rows]).value_counts().to_dict()
    said = ", ".join(f"{number} {status}" for status, number in counts.items())
    bad = [] if restricted else [row for row in rows if row.get("status") != "ok"]
    return {
        "statuses": f"{len(rows)} inputs: {said}." if rows else "",
        "failures": bad[:_FAILURES],
        "more_failures": max(len(bad) - _FAILURES, 0),
    }


def read_config(path: Path) -> dict[str, Any]:
    """The config of a run; empty where there is none."""
    if not path.is_file():
        return {}
    from omegaconf import OmegaConf

    loaded = OmegaConf.to_container(OmegaConf.load(path))
    return {str(key): value for key, value in loaded.items()} if isinstance(loaded, dict) else {}


def told(config: Mapping[str, Any], restricted: bool) -> dict[str, Any]:
    """The part of a config that a report shows."""
    return {key: value for key, value in config.items() if not restricted or key in _METHOD}


def versions(path: Path) -> str:
    """``versions.json`` for reading; empty where there is none."""
    return json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=1) if path.is_file() else ""
