"""Runs that are killed and resumed, and runs on two ranks, against one that nothing happened to.

``python -m tests.core.training.exact FOLDER SEED`` prints one JSON object. A process of its own, because it imports
torch once and then forks a child for every run: the child may be killed, and forking is safe while this process has
computed nothing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from core.objectives.softmax import SoftmaxContrastive
from core.training import checkpoint as checkpoints
from core.training.alignment import AlignmentTask
from core.training.checkpoint import LAST
from core.training.fit import WEIGHTS, Interrupted, TrainerOptions, fit
from core.training.optimiser import AdamW, CosineWarmup
from core.training.step import Plain
from core.training.task import Task
from core.types import Batch
from tests.core.training.worlds import PairWorld, tiny_pair

STEPS, EVERY = 40, 4


class Killer:
    """An updater whose state is a running sum of random numbers, and that kills its process where it is told."""

    name = "killer"

    def __init__(self, step: int | None, when: str) -> None:
        self.step, self.when, self.sum = step, when, torch.zeros(3)

    def before_step(self, task: Task, batch: Batch, step: int) -> None:
        if step == self.step and self.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)

    def after_step(self, task: Task, step: int) -> None:
        self.sum += torch.rand(3)
        if step == self.step and self.when == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self.sum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sum = state["sum"]


class StopParent(pl.Callback):
    """Asks the process that started the ranks to stop, and notes at which step each rank did."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if trainer.is_global_zero and batch.step == self.step:
            os.kill(os.getppid(), signal.SIGTERM)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (self.folder / f"rank{trainer.global_rank}").write_text(str(trainer.global_step))


def stopped_run(folder: Path) -> None:
    """Two ranks whose parent is told to stop at step 7, and to the end."""
    try:
        train(folder, dropout=0.0, devices=2, callbacks=[StopParent(folder, 7)])
    except Interrupted as error:
        (folder / "said").write_text(str(error))
    train(folder, dropout=0.0, devices=2)


def train(
    folder: Path,
    step: int | None = None,
    when: str = "",
    dropout: float = 0.3,
    devices: int = 1,
    callbacks: Sequence[pl.Callback] = (),
) -> None:
    """Trains the tiny pair, from its last checkpoint where there is one."""
    torch.set_num_threads(1)
    if when == "writing":
        kill_in_checkpoint(step or 0)
    last = folder / LAST
    killer = Killer(step, when)
    fit(
        AlignmentTask(tiny_pair(3, dropout), SoftmaxContrastive()),
        PairWorld(64, 16, seed=5),
        folder,
        step=Plain(clip_norm=100.0),
        optimiser=AdamW(0.01),
        schedule=CosineWarmup(STEPS, 5),
        seed=11,
        trainer=TrainerOptions(
            accelerator="cpu", devices=devices, log_every=3, checkpoint_every=EVERY, launch="fork", precision="32-true"
        ),
        updaters=[killer],
        callbacks=callbacks,
        resume=last if last.is_file() else None,
    )
    if devices == 1:
        torch.save(killer.sum, folder / "updater.pt")


def kill_in_checkpoint(step: int) -> None:
    """Dies with half a checkpoint on the disk, at the first one from ``step`` on."""
    write = torch.save

    def half(content: dict[str, Any], file: Any) -> None:
        write(content, file)
        if content["global_step"] >= step:
            file.truncate(file.tell() // 2)
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.torch.save = half  # type: ignore[assignment]


def in_child(run: Callable[[], None], log: Path) -> int:
    """Runs in a forked child; its exit status, negative for a signal."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            run()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_run(folder: Path, seed: int, log: Path) -> list[dict[str, Any]]:
    """Five kills at seeded, growing steps (one while a checkpoint is written), then to the end."""
    random = np.random.default_rng(seed)
    steps = sorted(random.choice(np.arange(2, STEPS - EVERY), 5, replace=False).tolist())
    ways = ["writing", *random.choice(["before", "after"], 4).tolist()]
    random.shuffle(ways)
    kills = []
    for step, when in zip(steps, ways, strict=True):
        status = in_child(lambda step=step, when=when: train(folder, step, when), log)
        litter = [path.name for path in folder.glob(".writing-*")]
        kills.append({"step": step, "when": when, "status": status, "litter": len(litter)})
    kills.append({"step": STEPS, "when": "end", "status": in_child(lambda: train(folder), log), "litter": 0})
    return kills


def main(folder: Path, seed: int, ranks: bool = True) -> dict[str, Any]:
    log = folder / "log"
    result: dict[str, Any] = {"clean": in_child(lambda: train(folder / "clean"), log)}
    result["kills"] = killed_run(folder / "killed", seed, log)
    for name in (WEIGHTS, "metrics.csv", "updater.pt"):
        result[name] = (folder / "clean" / name).read_bytes() == (folder / "killed" / name).read_bytes()
    result["left"] = sorted(path.name for path in (folder / "killed").iterdir())
    if ranks:
        for name, devices in (("one", 1), ("two", 2)):
            result[name] = in_child(lambda n=name, d=devices: train(folder / n, dropout=0.0, devices=d), log)
        result["stopped"] = in_child(lambda: stopped_run(folder / "stopped"), log)
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
