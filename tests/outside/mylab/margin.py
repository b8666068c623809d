"""A triplet margin objective: every own caption closer than the hardest other one by a margin."""

from __future__ import annotations

import torch

from core.objectives.exchange import Exchange
from core.objectives.objective import Objective
from core.types import LossTerms, Policy, Targets


class Margin(Objective):
    """mean_i relu(margin - cos(i, own) + max_j cos(i, other)); relations play no part."""

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        self.margin = margin

    def forward(
        self,
        images: torch.Tensor,
        texts: torch.Tensor,
        targets: Targets,
        scale: torch.Tensor,
        bias: torch.Tensor | None,
        exchange: Exchange,
    ) -> LossTerms:
        rows = slice(targets.row_splits[exchange.rank], targets.row_splits[exchange.rank + 1])
        cosine = images @ exchange.gather(texts).T  # [b, C]
        own = targets.block(rows, slice(None), Policy.diagonal(), cosine) == 1
        positive = cosine.masked_fill(~own, -torch.inf).amax(1)
        negative = cosine.masked_fill(own, -torch.inf).amax(1)
        share = (self.margin - positive + negative).relu().sum() / targets.row_splits[-1]
        return LossTerms(share + 0.0 * scale)  # the scale stays in the graph: every parameter has a gradient
