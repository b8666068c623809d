"""The contract of an objective: pure maths on the embeddings of a rank."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from core.objectives.exchange import Exchange
from core.types import LossTerms, Targets


class Objective(nn.Module, ABC):
    """Turns image and text embeddings into this rank's share of the loss of the global batch.

    ``core.objectives.check.check_objective`` tests anybody's implementation.
    """

    needs_bias: bool = False  # whether the model must bring a learned bias
    initial_scale: float = 1 / 0.07  # CLIP's; multiplies cosines
    initial_bias: float | None = None

    @abstractmethod
    def forward(
        self,
        images: Tensor,
        texts: Tensor,
        targets: Targets,
        scale: Tensor,
        bias: Tensor | None,
        exchange: Exchange,
    ) -> LossTerms:
        """The share of this rank: over all ranks the shares, and their gradients, sum to those of the whole batch.

        Args:
            images: [b, D] rows ``row_splits[rank]:row_splits[rank + 1]`` of the global batch, L2-normalised.
            texts: [c, D] columns ``column_splits[rank]:column_splits[rank + 1]``, L2-normalised.
            targets: what every pair of the global batch should be, on the device of the embeddings.
            scale: scalar > 0 by which cosines are multiplied (not its logarithm).
            bias: scalar added to the scaled cosines, or None for 0.
            exchange: the way to the other ranks.
        """
