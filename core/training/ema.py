"""An exponential moving average of the weights: a teacher while a model trains, and what is kept of it at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from core.training.task import Task
from core.types import Batch, UserError


class Ema:
    """``average <- m average + (1 - m) parameter`` after every optimiser step, for each parameter that is trained.

    The momentum m goes along half a cosine from ``momentum`` at the first step to ``final`` at the end (DINO, Caron et
    al. 2021, arXiv 2104.14294, section 3.1, with 0.996 and 1); equal values make it constant. The average starts as the
    first weights, is kept in the checkpoint, and needs no exchange: parameters are the same on all ranks. Buffers have
    no average.

    A task that learns from a teacher is given this object and reads ``average``. After the last step the average takes
    the place of the parameters: it is what is evaluated and saved.

    Args:
        momentum: in [0, 1].
        steps: optimiser steps of the whole training.
        final: in [0, 1].

    Raises:
        UserError: a momentum outside [0, 1], or no steps.
    """

    name = "ema"

    def __init__(self, momentum: float, steps: int, final: float = 1.0) -> None:
        if not (0 <= momentum <= 1 and 0 <= final <= 1 and steps >= 1):
            raise UserError(
                f"the moving average has momentum {momentum} to {final} over {steps} steps",
                "updaters.ema",
                "use momenta from 0 to 1, and at least one step",
            )
        self.momentum, self.steps, self.final = momentum, steps, final
        self.average: dict[str, Tensor] = {}  # by the parameter's name in the task

    def at(self, step: int) -> float:
        """m after optimiser step ``step`` (0 is the first)."""
        done = min(step / self.steps, 1.0)
        return self.final - (self.final - self.momentum) * 0.5 * (1 + math.cos(math.pi * done))

    def before_step(self, task: Task, batch: Batch, step: int) -> None:
        """Before the first step, the average is the weights; after a resume it comes from the CPU."""
        if not self.average:
            self.average = {name: parameter.detach().clone() for name, parameter in trained(task)}
        self.average = {name: self.average[name].to(parameter) for name, parameter in trained(task)}

    @torch.no_grad()
    def after_step(self, task: Task, step: int) -> None:
        """Moves the average; the last step ends with the average in place of the parameters."""
        for name, parameter in trained(task):
            average = self.average[name].lerp_(parameter, 1 - self.at(step))
            if step == self.steps - 1:
                parameter.copy_(average)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average = dict(state["average"])


def trained(task: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters that an optimiser changes, with their names."""
    return ((name, parameter) for name, parameter in task.named_parameters() if parameter.requires_grad)
