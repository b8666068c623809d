"""Signals and progress."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, cast

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from core.training.module import TrainingModule

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopOnSignal(pl.Callback):
    """SIGTERM, SIGUSR1 and SIGUSR2 (schedulers, submitit) ask for a checkpoint at the next batch boundary.

    The handler sets one flag and nothing else: a checkpoint written inside a handler is off by one batch.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def forward(self, kill: Callable[[int], None]) -> None:
        """In a process that only waits for its ranks: passes the signals on to them.

        The first rank that hears of one tells the others (``TrainingModule.stopping``): all stop at the same step.

        Args:
            kill: sends a signal to every rank.
        """
        if threading.current_thread() is not threading.main_thread():
            return

        def handler(number: int, frame: FrameType | None) -> None:
            self.received = signal.Signals(number)
            kill(number)

        for number in _SIGNALS:
            signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread alone
        module, process = cast(TrainingModule, pl_module), os.getpid()

        def handler(number: int, frame: FrameType | None) -> None:
            if os.getpid() == process:
                self.received = signal.Signals(number)
                module.stop_wanted = True
            elif number == signal.SIGTERM:  # a loader worker that inherited the handler
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTERM)

        for number in _SIGNALS:
            signal.signal(number, handler)


@contextmanager
def signals_kept() -> Iterator[None]:
    """Puts back the handlers of the three signals, whatever was installed inside (Lightning leaves its own)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class ShowProgress(pl.Callback):
    """A rich bar on a terminal; elsewhere a line at every log point (a batch system's log is no terminal)."""

    def __init__(self, log_every: int) -> None:
        self.log_every = log_every
        self._console: Console | None = None  # holds a stream, which does not travel to spawned ranks
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._first, self._began = 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module = cast(TrainingModule, pl_module)
        self._first, self._began = trainer.global_step, time.monotonic()
        if not trainer.is_global_zero:
            return
        self._console = Console(file=sys.stderr, soft_wrap=True)
        if self._console.is_terminal:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                       TextColumn("{task.fields[state]}"))  # fmt: skip
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task("", total=module.schedule.steps, completed=self._first, state="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module, step = cast(TrainingModule, pl_module), trainer.global_step
        steps = module.schedule.steps
        logged = step % self.log_every == 0 or step == steps
        if self._bar is not None:
            self._bar.update(self._task, completed=step, state=_state(module.latest))
        elif logged and self._console is not None:
            pace = (time.monotonic() - self._began) / (step - self._first)
            left = f"{pace * 1000:.0f} ms a step, {pace * (steps - step):.0f} s left"
            self._console.print(f"step {step}/{steps}  {_state(module.latest)}  {left}", highlight=False)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._console = None


def _state(latest: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in latest.items())
