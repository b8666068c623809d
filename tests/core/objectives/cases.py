"""The objectives under test with their references, and what a rank does in a test of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from core.objectives.check import Example, Result, evaluate, example
from core.objectives.exchange import ProcessGroupExchange
from core.objectives.group_metric import GroupMetric
from core.objectives.objective import Objective
from core.objectives.sigmoid import SigmoidContrastive
from core.objectives.softmax import SoftmaxContrastive
from core.types import Policy, Targets
from tests.core.objectives import reference

POLICIES = {
    "diagonal": Policy.diagonal(),
    "excluded": Policy.graph("excluded"),
    "soft": Policy.graph("soft", 0.25),
    "negative": Policy.graph("negative"),
}
OBJECTIVES: dict[str, type] = {
    "softmax": SoftmaxContrastive,
    "sigmoid": SigmoidContrastive,
    "group_metric": GroupMetric,
}


def build(kind: str, policy: str, tile: int = 3) -> Objective:
    objective: Objective = OBJECTIVES[kind](POLICIES[policy], tile=tile)
    return objective


def slow(kind: str, policy: str) -> Callable[..., Tensor]:
    """Reference with the signature ``(images, texts, targets, scale, bias)``."""

    def loss(images: Tensor, texts: Tensor, targets: Targets, scale: Tensor, bias: Tensor | None) -> Tensor:
        s = reference.logits(images, texts, scale, bias)
        if kind == "group_metric":
            return reference.group_metric(s, targets, POLICIES[policy])
        want = reference.matrix(targets, POLICIES[policy])
        form = reference.softmax if kind == "softmax" else reference.sigmoid
        return form(s, want, targets.row_weight, targets.column_weight)

    return loss


def differentiate(
    loss: Callable[..., Tensor], batch: Example, scale: float, bias: float | None, dtype: torch.dtype = torch.float64
) -> Result:
    """Loss and gradients of a reference on a whole batch; inputs are rounded as the batch is, then lifted."""
    images, texts = [part.to(dtype).requires_grad_() for part in (batch.images, batch.texts)]
    logit_scale = torch.tensor(scale, dtype=dtype, requires_grad=True)
    logit_bias = None if bias is None else torch.tensor(bias, dtype=dtype, requires_grad=True)
    value = loss(images, texts, batch.targets, logit_scale, logit_bias)
    value.backward()
    return Result(value.detach(), images.grad, texts.grad, logit_scale.grad, None if bias is None else logit_bias.grad)


def errors(found: Result, wanted: Result) -> dict[str, float]:
    """Norm-relative, ||a - b|| / ||b||."""
    other = found.compared()
    return {
        name: float((other[name].double() - value.double()).norm() / value.double().norm().clamp(min=1e-300))
        for name, value in wanted.compared().items()
    }


def on_rank(kind: str, policy: str, scale: float, seed: int, sizes: Sequence[int], weighted: bool = False) -> Result:
    """What one of ``len(sizes)`` gloo ranks gets."""
    batch = weigh(example(seed, sizes)) if weighted else example(seed, sizes)
    return evaluate(build(kind, policy), batch, scale, ProcessGroupExchange())


def weigh(batch: Example) -> Example:
    """Sample weights, some of them zero."""
    rows, columns = len(batch.images), len(batch.texts)
    targets = replace(
        batch.targets,
        row_weight=torch.arange(rows, dtype=torch.float64) % 4 / 2,
        column_weight=torch.arange(columns, dtype=torch.float64) % 3,
    )
    return replace(batch, targets=targets)
