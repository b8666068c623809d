"""Pooling by attention: what ABMIL, gated ABMIL and CLAM share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from core.mil.aggregator import Aggregator, BagOutput, tile_layers
from core.mil.bags import PackedBags
from core.mil.chunked import map_in_chunks, pool_in_chunks
from core.mil.segments import segment_softmax


class AttentionPooling(Aggregator, ABC):
    """z_b = sum over the tiles of bag b of softmax(score)_i h_i, with h = ``tiles(x)``; exact for bags of any size.

    Args:
        in_features: D.
        hidden: widths of the layers in front of the pooling; none pools the features themselves.
        dropout: after each of them.
        columns: C attentions beside each other; the embedding is then their z one after the other.
    """

    def __init__(self, in_features: int, hidden: Sequence[int], dropout: float, columns: int = 1) -> None:
        super().__init__()
        self.in_features, self.columns = in_features, columns
        self.tiles = tile_layers(in_features, hidden, dropout)
        self.tile_width = hidden[-1] if hidden else in_features
        self.width = columns * self.tile_width

    @abstractmethod
    def scores(self, hidden: Tensor) -> Tensor:
        """Unnormalised attention of tiles h [t, V], [t, C]."""

    def attend(self, bags: PackedBags) -> tuple[BagOutput, Tensor]:
        """The pooling, and the scores [T, C] with their gradient."""
        pooled, scores = pool_in_chunks(self._instances, bags.features, bags.offsets)  # [B, C, V], [T, C]
        weights = segment_softmax(scores.detach(), bags.offsets)
        values = None
        if not self.training:
            with torch.no_grad():
                values = map_in_chunks(self.tiles, bags.features)
        return BagOutput(pooled.flatten(1), weights[:, 0] if self.columns == 1 else weights, values), scores

    def _instances(self, features: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.tiles(features)
        return self.scores(hidden), hidden

    def forward(self, bags: PackedBags, labels: Tensor | None = None) -> BagOutput:
        """See :meth:`core.mil.aggregator.Aggregator.forward`."""
        return self.attend(bags)[0]
