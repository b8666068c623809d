"""The verb ``train``: data, model, objective, training, evaluation, map, report, in that order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from core.data.describe import describe
from core.evaluation.pooled import pooled
from core.run.evaluate import finish, wide_console
from core.run.inputs import make_data, read_inputs
from core.run.instantiate import instantiate
from core.run.load import build_model
from core.run.status import exit_status, write_status
from core.training.checkpoint import LAST
from core.training.estimate import Estimate, estimate
from core.training.fit import fit


def run(cfg: DictConfig, folder: Path) -> int:
    """Trains one model into ``folder``; status 3 when pictures were refused.

    Raises:
        UserError: anything the user can mend; see the message.
    """
    inputs = read_inputs(cfg, folder)
    torch.manual_seed(cfg.seed)  # initial weights; every later draw is keyed by (seed, step)
    model = build_model(cfg)
    data = make_data(cfg, inputs, model)
    fates = data.prepare()
    describe(
        inputs.manifest,
        inputs.findings,
        fates,
        inputs.concepts,
        inputs.relations.group,
        inputs.group_names,
        cfg.data.sharing,
    )
    first = os.environ.get("SLURM_PROCID", "0") == "0"  # of several tasks, which share the folder
    if first:
        write_status(folder, fates)  # before training: it names what a run that cannot go on has lost
    task = instantiate(cfg.task, model=model, objective=instantiate(cfg.objective))
    last = folder / LAST
    how: dict[str, Any] = {
        "step": instantiate(cfg.step),
        "optimiser": instantiate(cfg.optimiser),
        "schedule": instantiate(cfg.schedule),
        "seed": cfg.seed,
        "trainer": instantiate(cfg.trainer),
        "updaters": instantiate(cfg.updaters),
        "resume": last if cfg.resume and last.is_file() else None,
    }
    if cfg.dry_run:
        cost = estimate(task, data, **how)
        if first:
            show(cost)
        return exit_status(fates, cfg.allow_failures)
    fit(task, data, folder, logger=instantiate(cfg.logger) if cfg.logger else None, **how)
    if not first:
        return 0  # the first evaluates and writes
    return finish(cfg, folder, inputs, data, model)


def show(cost: Estimate) -> None:
    """What the run will take, as ``name: value`` lines: training alone, evaluation comes on top."""
    print(f"steps: {cost.steps}")
    print(f"step_seconds: {cost.step_seconds:.3g}")
    print(f"hours: {cost.hours:.3g}")
    print(f"gb: {cost.disk_bytes / 1e9:.3g}")


def after_sweep(folder: Path, cfg: DictConfig) -> None:
    """Pools the folds of a cross-validation and prints the figures beside the stated floors."""
    if cfg.data.split.folds and not cfg.dry_run:
        pooled(folder, console=wide_console())
