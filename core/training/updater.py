"""What happens beside the gradient: an average of the weights, an assignment to prototypes."""

from __future__ import annotations

from typing import Any, Protocol

from core.training.task import Task
from core.types import Batch


class Updater(Protocol):
    """Called around every optimiser step (never around a micro-batch); its state lives in the checkpoint.

    The state must be the same on every rank, since the checkpoint keeps that of rank 0, and hold tensors, numbers,
    strings and plain containers alone.
    """

    name: str  # key in the checkpoint

    def before_step(self, task: Task, batch: Batch, step: int) -> None:
        """Before the gradient of optimiser step ``step`` is computed."""
        ...

    def after_step(self, task: Task, step: int) -> None:
        """After the parameters have changed."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
