"""The verb ``train``: a road gives data and task; then training, evaluation and report."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from core.data.sharing import is_restricted
from core.evaluation.arms import find_arms, find_runs
from core.evaluation.pooled import pooled
from core.run.evaluate import wide_console
from core.run.instantiate import instantiate
from core.run.out_of_fold import keep_out_of_fold
from core.run.road import Prepared
from core.run.status import exit_status, write_status
from core.training.checkpoint import LAST
from core.training.estimate import Estimate, estimate
from core.training.fit import fit
from core.types import UserError

ROADS = ("pairs", "bags")  # a road is `core.run.<road>.prepare(cfg, folder) -> Prepared`


def run(cfg: DictConfig, folder: Path) -> int:
    """Trains one model into ``folder``; status 3 when pictures were refused.

    Raises:
        UserError: anything the user can mend; see the message.
    """
    if cfg.road not in ROADS:
        raise UserError(f"road is '{cfg.road}'", "road", f"choose from {', '.join(ROADS)}")
    is_restricted(cfg.data.sharing)  # a misspelling must not be found after hours
    road: Prepared = import_module(f"core.run.{cfg.road}").prepare(cfg, folder)
    first = os.environ.get("SLURM_PROCID", "0") == "0"  # of several tasks, which share the folder
    if first:
        write_status(folder, road.fates)  # before training: it names what a run that cannot go on has lost
    last = folder / LAST
    how: dict[str, Any] = {
        "step": instantiate(cfg.step),
        "optimiser": instantiate(cfg.optimiser),
        "schedule": instantiate(cfg.schedule),
        "seed": cfg.seed,
        "trainer": instantiate(cfg.trainer),
        "updaters": [part for part in instantiate(cfg.updaters).values() if part is not None],
        "resume": last if cfg.resume and last.is_file() else None,
    }
    if cfg.dry_run:
        cost = estimate(road.task, road.data, **how)
        if first:
            show(cost)
        return exit_status(road.fates, cfg.allow_failures)
    fit(road.task, road.data, folder, logger=instantiate(cfg.logger) if cfg.logger else None, **how)
    if not first:
        return 0  # the first evaluates and writes
    return road.finish()


def show(cost: Estimate) -> None:
    """What the run will take, as ``name: value`` lines: training alone, evaluation comes on top."""
    print(f"steps: {cost.steps}")
    print(f"step_seconds: {cost.step_seconds:.3g}")
    print(f"hours: {cost.hours:.3g}")
    print(f"gb: {cost.disk_bytes / 1e9:.3g}")


def after_sweep(folder: Path, cfg: DictConfig) -> None:
    """Pools the folds of a cross-validation and prints the figures beside the stated floors; of bags also a table of
    what was said of each by runs that had not seen it, and its ROC curve."""
    if cfg.data.split.folds and not cfg.dry_run:
        pooled(folder, console=wide_console())
        keep_out_of_fold(folder, find_arms(find_runs([folder])[0])[0], wide_console())
