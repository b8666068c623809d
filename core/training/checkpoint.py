"""Checkpoints that are whole or absent, read without running code, and refused by name when they are newer."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins import CheckpointIO

from core.files import atomic_write
from core.training.module import TrainingModule
from core.types import UserError

SCHEMA_VERSION = 1
LAST = "last.ckpt"


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target, syncs and renames (Lightning's own goes through the temporary folder of the system,
    which is atomic only on the same file system, and syncs nothing).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            try:
                torch.save({**checkpoint, "schema_version": SCHEMA_VERSION}, file)
            except RuntimeError as error:
                # torch closes its archive after a failed write, and that failure hides why the disk said no
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint on the CPU; tensors and plain containers alone, whoever asks.

    Raises:
        UserError: missing, damaged, holding code, or written by a newer version.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"checkpoint '{path}' is not there", todo="correct resume=") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"checkpoint '{path}' is damaged or holds more than tensors: {error}") from error
    version = checkpoint.get("schema_version") if isinstance(checkpoint, dict) else None
    if not isinstance(version, int):
        raise UserError(f"'{path}' is no checkpoint of this suite", todo="resume from a run folder's last.ckpt")
    if version > SCHEMA_VERSION:
        raise UserError(f"checkpoint has schema version {version} and this release reads up to {SCHEMA_VERSION}",
                        str(path), "install the release that wrote it, or a newer one")  # fmt: skip
    return checkpoint


class Checkpoints(pl.Callback):
    """Writes ``last.ckpt`` every ``every`` optimiser steps, at the last step, and when a signal asked to stop.

    Always between two batches: a checkpoint inside a step loses a batch on resume.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.path, self.every = folder / LAST, every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module, step = cast(TrainingModule, pl_module), trainer.global_step
        if step % self.every == 0 or step == module.schedule.steps or module.stopping:
            trainer.save_checkpoint(self.path)
        if module.stopping:
            trainer.should_stop = True
