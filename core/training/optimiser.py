"""AdamW with the usual exclusions, and learning rates that are pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from core.types import UserError

if TYPE_CHECKING:
    from core.training.task import Task

# tables and tokens that are looked up or added, not multiplied; CLIP, ViT and their kin do not decay them
_NOT_DECAYED = ("positional_embedding", "pos_embed", "class_embedding", "cls_token", "reg_token", "token",
                "logit_scale", "logit_bias", "relative_position_bias_table")  # fmt: skip


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Splits trainable parameters into two groups: matrices and kernels decay; biases, norms, embeddings, positions
    and the temperature do not.
    """
    tables = {id(child.weight) for child in module.modules() if isinstance(child, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        excluded = parameter.ndim < 2 or id(parameter) in tables or name.rpartition(".")[2] in _NOT_DECAYED
        (others if excluded else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov and Hutter 2019)."""

    lr: float  # at the top of the schedule
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6

    def build(self, task: Task) -> torch.optim.AdamW:
        """The optimiser of a task's parameter groups."""
        groups = task.parameter_groups(self.weight_decay)
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.betas[0], self.betas[1]), eps=self.eps, fused=True)


@dataclass(frozen=True)
class CosineWarmup:
    """Linear warm-up, then half a cosine down to ``final`` of the top rate; counts optimiser steps.

    Raises:
        UserError: no steps, or a warm-up that is longer than the training.
    """

    steps: int
    warmup_steps: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.warmup_steps <= self.steps:
            raise UserError(f"schedule has {self.steps} steps and a warm-up of {self.warmup_steps}", "schedule.steps",
                            "train at least one step, with a warm-up no longer than that")  # fmt: skip

    def factor(self, step: int) -> float:
        """What the top rate is multiplied by at optimiser step ``step`` (0 is the first)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
