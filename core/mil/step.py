"""Forward and backward in groups of bags, for losses in which no bag depends on another."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from core.mil.data import BagBatch
from core.objectives.exchange import Exchange
from core.training.step import Backward, Coupled, Step
from core.types import LossTerms, UserError


class TokenGroups(Step):
    """One forward and one backward a group of bags of at most so many tiles: the gradient is that of the whole batch.

    Memory is bounded by the largest group (or the longest bag). On a CPU groups are faster than one large pack too:
    fresh memory for its activations costs more than the kernels save.

    Args:
        tokens: tiles in a group; a longer bag is a group of its own.
        clip_norm: see :class:`core.training.step.Step`.

    Raises:
        UserError: ``tokens`` is below 1; or, when it runs, the task couples bags (Cox).
    """

    def __init__(self, tokens: int = 8192, clip_norm: float | None = None) -> None:
        super().__init__(clip_norm)
        if tokens < 1:
            raise UserError(f"tokens is {tokens}", "step.tokens", "use a number of tiles above 0")
        self.tokens = tokens

    def _gradients(self, task: Coupled, batch: Any, exchange: Exchange, backward: Backward) -> LossTerms:
        groups: list[BagBatch] = batch.groups(self.tokens)
        total = int(exchange.sum(batch.bags.features.new_tensor(float(len(batch.ids)))))
        parts: dict[str, Tensor] = {}
        for index, group in enumerate(groups):
            encoded: Any = task.encode(group, len(group.ids) / total)  # type: ignore[arg-type]  # bags, not pictures
            if encoded.embeddings:
                raise UserError(
                    f"the loss of {type(task).__name__} compares bags, and groups of bags cannot see each other",
                    "step=token_groups",
                    "use step=cached",
                )
            backward(sum(encoded.terms.values()), index == len(groups) - 1)  # type: ignore[arg-type]
            for name, value in encoded.terms.items():
                parts[name] = parts[name] + value.detach() if name in parts else value.detach()
        return LossTerms(sum(parts.values()), parts)  # type: ignore[arg-type]
