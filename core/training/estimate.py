"""What a training run will cost, from a few steps of it that are timed and thrown away."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor

from core.training.checkpoint import read_checkpoint
from core.training.fit import TrainData, TrainerOptions, fit
from core.training.module import TrainingModule
from core.training.optimiser import AdamW, CosineWarmup
from core.training.step import Step
from core.training.task import Task
from core.training.updater import Updater

TIMED = 4  # steps after the first, which also warms caches up and starts loaders


@dataclass(frozen=True)
class Estimate:
    """The cost of what is left of a run."""

    steps: int  # optimiser steps
    step_seconds: float  # of one, the loading of its batch included
    checkpoint_bytes: int  # of last.ckpt
    weights_bytes: int  # of model.safetensors

    @property
    def hours(self) -> float:
        """Of training alone: reading the data and evaluation come on top."""
        return self.steps * self.step_seconds / 3600

    @property
    def disk_bytes(self) -> int:
        """At most: a new checkpoint is whole before it replaces the one before."""
        return 2 * self.checkpoint_bytes + self.weights_bytes


def estimate(
    task: Task,
    data: TrainData,
    *,
    step: Step,
    optimiser: AdamW,
    schedule: CosineWarmup,
    seed: int,
    trainer: TrainerOptions | None = None,
    updaters: Sequence[Updater] = (),
    resume: Path | None = None,
) -> Estimate:
    """Takes one step to warm up and a few that are timed, on the real path of batches; writes nothing.

    The arguments are those of :func:`core.training.fit.fit`.

    Raises:
        UserError: whatever would end the run in its first steps.
    """
    begun = 0 if resume is None else int(read_checkpoint(resume)["global_step"])
    left = schedule.steps - begun
    watch = _Stopwatch()
    if left > 0:
        short = replace(schedule, steps=begun + min(left, 1 + TIMED), warmup_steps=0)
        still = replace(optimiser, lr=0.0)  # the same work, without a warm-up that is too short to be safe
        fit(task, data, None, step=step, optimiser=still, schedule=short, seed=seed, trainer=trainer,
            updaters=updaters, callbacks=[watch], resume=resume)  # fmt: skip
    return Estimate(left, watch.step_seconds, watch.checkpoint_bytes, watch.weights_bytes)


class _Stopwatch(pl.Callback):
    """Times of the first rank; in shared memory, because that rank may be another process."""

    def __init__(self) -> None:
        self._times = torch.zeros(2 + TIMED, dtype=torch.float64).share_memory_()  # type: ignore[no-untyped-call]
        self._bytes = torch.zeros(2, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._seen = 0

    @property
    def step_seconds(self) -> float:
        """Mean of the timed steps; the first one's where there is no other."""
        times = self._times[self._times > 0]
        counted = times if len(times) < 3 else times[1:]
        return float((counted[-1] - counted[0]) / (len(counted) - 1)) if len(counted) > 1 else 0.0

    @property
    def checkpoint_bytes(self) -> int:
        return int(self._bytes[0])

    @property
    def weights_bytes(self) -> int:
        return int(self._bytes[1])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self._note(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            module = cast(TrainingModule, pl_module)
            self._bytes[0] = _size([module.state_dict(), *(made.state_dict() for made in trainer.optimizers),
                                    *(updater.state_dict() for updater in module.updaters)])  # fmt: skip
            self._bytes[1] = _size(module.task.exported().state_dict())

    def _note(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            self._times[self._seen] = time.monotonic()
            self._seen += 1


def _size(value: Any) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(_size(inner) for inner in value.values())
    return sum(_size(inner) for inner in value) if isinstance(value, list | tuple) else 0
