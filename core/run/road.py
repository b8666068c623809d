"""What a road to a trained model gives the verb ``train``: pictures with texts, or bags of features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.training.fit import TrainData
from core.training.task import Task
from core.types import Fate


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs, and what comes after it.

    A road is a module of this package with ``prepare(cfg, folder) -> Prepared``; ``road=`` names it.
    """

    task: Task
    data: TrainData
    fates: Sequence[Fate]  # of every input, before training
    finish: Callable[[], int]  # evaluates the trained task, writes its results, gives the exit status
