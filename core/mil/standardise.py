"""Features of no common scale, brought to mean 0 and deviation 1 before an aggregator sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from core.mil.aggregator import Aggregator, BagOutput
from core.mil.bags import PackedBags


class Standardised(Aggregator):
    """An aggregator on standardised features; mean and deviation are of training tiles and saved with the weights.

    A feature that is constant in training stays as it is but for its mean.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, inner: Aggregator) -> None:
        super().__init__()
        self.inner = inner
        self.in_features, self.width, self.order_free = inner.in_features, inner.width, inner.order_free
        self.register_buffer("mean", torch.zeros(inner.in_features))
        self.register_buffer("deviation", torch.ones(inner.in_features))

    def require_room(self, ids: Sequence[str], lengths: Sequence[int]) -> None:
        self.inner.require_room(ids, lengths)

    def prepare(self, tiles: Tensor, seed: int) -> None:
        deviation = tiles.double().std(dim=0, correction=0)
        self.mean.copy_(tiles.double().mean(dim=0))
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))
        self.inner.prepare(self._standardised(tiles), seed)

    def forward(self, bags: PackedBags, labels: Tensor | None = None) -> BagOutput:
        output: BagOutput = self.inner(replace(bags, features=self._standardised(bags.features)), labels)
        return output

    def after_step(self) -> None:
        self.inner.after_step()

    def contributions(self, output: BagOutput, head_weight: Tensor) -> Tensor:
        return self.inner.contributions(output, head_weight)

    def _standardised(self, features: Tensor) -> Tensor:
        return (features - self.mean.to(features)) / self.deviation.to(features)
