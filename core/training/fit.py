"""One call that trains: Lightning's Trainer with the options that keep a run exact."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only
from torch.multiprocessing.spawn import ProcessExitedException

from core.models.weights import save_trained
from core.training.callbacks import ShowProgress, StopOnSignal, signals_kept
from core.training.checkpoint import LAST, AtomicCheckpointIO, Checkpoints, read_checkpoint
from core.training.logger import MetricsCsv
from core.training.module import TrainingModule
from core.training.optimiser import AdamW, CosineWarmup
from core.training.step import Step
from core.training.task import Task
from core.training.updater import Updater
from core.types import Batch, UserError

WEIGHTS = "model.safetensors"


class TrainData(Protocol):
    """What training needs of the data: batches as a pure function of the step.

    Data that a run may resume over have a ``fingerprint: str`` too: a hash of what trains, in order. It is kept in the
    checkpoint, and a run goes on only over data of the same one. Where what is hashed changes, a new word and a colon
    before the hash keep this apart from data that changed.
    """

    def train_batches(self, start_step: int, stop_step: int, rank: int, size: int) -> Iterable[Any]:
        """Batches of optimiser steps ``start_step`` to ``stop_step - 1``, the part of ``rank`` among ``size``: those
        the task encodes (:class:`core.types.Batch` or bags), each with its ``step`` and ``ids``.
        """
        ...


@dataclass(frozen=True)
class TrainerOptions:
    """The options of Lightning's Trainer that a user may set."""

    precision: str = "auto"  # auto: bf16-mixed where a GPU has it, else 32-true
    accelerator: str = "auto"
    devices: int | str | list[int] = 1
    num_nodes: int = 1
    log_every: int = 10  # optimiser steps
    checkpoint_every: int = 100  # optimiser steps
    launch: Literal["spawn", "popen", "fork"] = "spawn"  # how ranks beyond the first start outside of SLURM


def trainer_options(**options: Any) -> TrainerOptions:
    """Trainer options out of a config: the ``_target_`` of ``conf/trainer``.

    Raises:
        UserError: an option that belongs to the step (accumulation, clipping) or is not known.
    """
    known = TrainerOptions.__dataclass_fields__
    for key in options:
        if key in ("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"):
            raise UserError(f"trainer.{key} would make the gradient wrong or be ignored", f"trainer.{key}",
                            "use step=cached with step.micro_batch, and step.clip_norm")  # fmt: skip
        if key not in known:
            raise UserError(f"trainer has no option '{key}'", f"trainer.{key}", f"choose from {', '.join(known)}")
    return TrainerOptions(**options)


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop by a signal; the checkpoint is complete. It stops a sweep too, as Ctrl+C does."""

    def __init__(self, message: str, received: signal.Signals | None = None) -> None:
        super().__init__(message)
        self.received = received


def fit(
    task: Task,
    data: TrainData,
    folder: Path | None,
    *,
    step: Step,
    optimiser: AdamW,
    schedule: CosineWarmup,
    seed: int,
    trainer: TrainerOptions | None = None,
    updaters: Sequence[Updater] = (),
    logger: Callable[[Path], Logger] | None = None,
    callbacks: Sequence[pl.Callback] = (),
    resume: Path | None = None,
) -> TrainingModule:
    """Trains for ``schedule.steps`` optimiser steps.

    Args:
        folder: gets ``metrics.csv``, ``last.ckpt`` and, at the end, ``model.safetensors``; None writes and shows
            nothing, for small models trained on the way (controls, probes).
        seed: of torch's generators; data have their own.
        logger: makes one more logger of the run folder.
        resume: a checkpoint to go on from; the run then ends as if it had never stopped.

    Returns:
        The module; its task is trained and in evaluation mode, on the CPU.

    Raises:
        UserError: a loss that is not finite, a checkpoint that does not fit, or data other than it was written over.
        Interrupted: a signal came; ``last.ckpt`` holds everything up to it.
    """
    options = trainer or TrainerOptions()
    begun = 0 if resume is None else _begun(resume, data)
    module = TrainingModule(task, step, optimiser, schedule, seed, updaters, options.log_every)
    loggers: list[Logger] = []
    stop = StopOnSignal()
    extra: list[pl.Callback] = [*callbacks]
    if folder is not None:
        _tidy(folder)
        table = MetricsCsv(folder)
        table.start(begun)
        loggers = [table] + ([logger(folder)] if logger else [])
        extra += [ShowProgress(options.log_every), Checkpoints(folder, options.checkpoint_every), stop]
    with _quiet(), signals_kept():
        runner = _trainer(options, schedule.steps, loggers, extra, folder)
        if folder is not None and isinstance(runner.strategy.launcher, _MultiProcessingLauncher):
            stop.forward(runner.strategy.launcher.kill)
        try:
            runner.fit(module, datamodule=_StepData(data, schedule.steps), ckpt_path=resume, weights_only=True)
        except ProcessExitedException as error:
            if stop.received is None:
                raise
            raise Interrupted(f"{stop.received.name} ended training before its first step.") from error
    reached = runner.global_step
    if distributed(options):  # the ranks may have been other processes
        if folder is None:
            reached = schedule.steps  # nothing stops it early but an error
        elif (folder / LAST).is_file():
            reached = int(read_checkpoint(folder / LAST)["global_step"])
    if reached < schedule.steps:
        name = "" if stop.received is None else f" by {stop.received.name}"
        told = f"Training was stopped{name} after optimiser step {reached} of {schedule.steps}."
        raise Interrupted(told, stop.received)
    task.cpu().eval()
    if folder is not None and runner.is_global_zero:
        save_trained(task.exported(), folder / WEIGHTS)
    return module


def _begun(checkpoint: Path, data: TrainData) -> int:
    """The optimiser step a checkpoint was written after.

    Raises:
        UserError: it was written over other data, or by a version whose fingerprint is of other things.
    """
    kept = read_checkpoint(checkpoint)
    before, now = kept.get(_StepData.__qualname__, {}).get("fingerprint"), _fingerprint(data)
    if before is not None and now is not None and before != now:
        if before.rpartition(":")[0] != now.rpartition(":")[0]:
            raise UserError(
                "this run was begun by another version, which remembered its data in another way: whether they are the "
                "same cannot be told",
                str(checkpoint),
                "go on with the version that is named in the run's folder, or start a new run without resume=",
            )
        raise UserError(
            "what would train now is not what this run began with: rows, splits, labels, features or readable pictures "
            "changed",
            str(checkpoint),
            "restore the files that are named above (and in status.csv), or start a new run without resume=",
        )
    return int(kept["global_step"])


def _fingerprint(data: TrainData) -> str | None:
    """Hash of what trains, perhaps as ``definition:hash``; None for data made in memory, which cannot change."""
    found: str | None = getattr(data, "fingerprint", None)
    return found


@rank_zero_only
def _tidy(folder: Path) -> None:
    """Removes what a killed run left half-written under temporary names."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".writing-*"):
        stale.unlink()


class _StepData(pl.LightningDataModule):
    """Asks the data for the batches from the trainer's own step on; Lightning need not restore any position."""

    def __init__(self, data: TrainData, stop_step: int) -> None:
        super().__init__()
        self.data, self.stop_step = data, stop_step
        self.fingerprint = _fingerprint(data)

    def state_dict(self) -> dict[str, Any]:
        """Goes into every checkpoint; ``_begun`` reads it before any process starts."""
        return {"fingerprint": self.fingerprint}

    def train_dataloader(self) -> Iterable[Batch]:
        trainer = self.trainer
        assert trainer is not None, "Lightning sets the trainer before it asks for data"
        rank, size = trainer.global_rank, trainer.world_size
        return _Unsized(self.data.train_batches(trainer.global_step, self.stop_step, rank, size))


class _Unsized(Iterable[Batch]):
    """Hides the length: Lightning would subtract the batches seen before a resume from it a second time."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def distributed(options: TrainerOptions) -> bool:
    """Whether several ranks train."""
    single = options.devices in (1, "1") or (isinstance(options.devices, list) and len(options.devices) == 1)
    return not single or options.num_nodes > 1


def _trainer(
    options: TrainerOptions, steps: int, loggers: list[Logger], callbacks: list[pl.Callback], folder: Path | None
) -> pl.Trainer:
    # a small model that is trained on the way belongs to each task alone
    environment = _environment() if folder is not None or distributed(options) else LightningEnvironment()
    strategy: Any = "auto"
    if distributed(options):
        launch = "popen" if isinstance(environment, SLURMEnvironment) else options.launch
        # a rank whose batch has no captions leaves its text tower out of the graph
        strategy = DDPStrategy(find_unused_parameters=True, start_method=launch)
    return pl.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=strategy,
        precision=_precision(options),
        plugins=[environment, AtomicCheckpointIO()],
        max_steps=steps,
        max_epochs=-1,
        logger=loggers,
        callbacks=callbacks,
        default_root_dir=None if folder is None else str(folder),
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _precision(options: TrainerOptions) -> Any:
    if options.precision != "auto":
        return options.precision
    on_gpu = options.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"


def _environment() -> ClusterEnvironment:
    """SLURM only when it started several tasks; requeueing is the handler's business, never Lightning's."""
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's remarks on hardware and advice that does not apply to step data."""
    remarks = logging.getLogger("lightning.pytorch")
    level = remarks.level
    remarks.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*find_unused_parameters=True was specified.*")
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        remarks.setLevel(level)
