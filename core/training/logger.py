"""Where metrics go: ``metrics.csv`` in the run folder always, Weights & Biases when asked."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from core.files import atomic_write
from core.types import UserError

METRICS = "metrics.csv"


class MetricsCsv(Logger):
    """``metrics.csv``: one row a log point, ``step`` first (optimiser steps done), header as first written.

    On resume the rows after the checkpoint's step are cut off, so that the file reads like that of one undisturbed
    run. A name that was not in the header is added to it, and earlier rows are blank there.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / METRICS
        self._columns: list[str] = []
        self._rows: list[dict[str, str]] = []

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> MetricsCsv:
        return self

    @rank_zero_only
    def start(self, step: int) -> None:
        """Keeps what was logged up to optimiser step ``step``; 0 begins a new file."""
        self._columns, self._rows = [], []
        if step and self.path.is_file():
            with open(self.path, newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or [])
                self._rows = [row for row in reader if int(row["step"]) <= step]
        self._rewrite()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": str(step), **{name: repr(float(value)) for name, value in metrics.items()}}
        self._rows.append(row)
        if set(row) <= set(self._columns):
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns, restval="").writerow(row)
        else:
            self._columns += [name for name in row if name not in self._columns]
            self._rewrite()

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds the resolved config."""

    def _rewrite(self) -> None:
        with atomic_write(self.path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            if self._columns:
                writer.writeheader()
            writer.writerows(self._rows)


def wandb_logger(
    folder: Path, project: str = "trivium", offline: bool = True, entity: str | None = None, name: str | None = None
) -> Logger:
    """A Weights & Biases logger: offline unless asked, without error reporting, code, git state, command line or
    host name.

    The run id is a hash of the folder, so that a resumed run continues its own curve.

    Raises:
        UserError: wandb is not installed.
    """
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # read when wandb is imported
    try:
        import wandb
    except ImportError as error:
        raise UserError("wandb is not installed", "logger=wandb", "pip install wandb, or use logger=csv") from error
    from lightning.pytorch.loggers import WandbLogger

    if wandb.run is not None:  # the job before in this process: Lightning would write on in its run
        wandb.finish()
    private: dict[str, Any] = {
        "x_disable_meta": True,
        "disable_git": True,
        "disable_code": True,
        "console": "off",
        "host": "private",
    }
    settings = wandb.Settings(**private, silent=True)
    identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return WandbLogger(project=project, entity=entity, name=name, offline=offline, id=identity, resume="allow",
                       save_dir=folder, settings=settings, log_model=False)  # fmt: skip
