"""Max pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.mil.aggregator import Aggregator, BagOutput, tile_layers, tile_shares, tile_values
from core.mil.bags import PackedBags
from core.mil.chunked import map_in_chunks
from core.mil.segments import segment_argmax


class MaxPooling(Aggregator):
    """z_be = max over the tiles of bag b of h_ie (MI-Net with max pooling, Wang et al. 2018, arXiv 1610.02501).

    A tile adds to the embedding the channels of which it holds the maximum; its weight is its share in the sum of
    absolute values. The instance-level form (the largest instance *logit*: mi-Net, CLAM's "max-MIL") is
    ``hidden`` ending in as many channels as there are logits.

    Args:
        in_features: D.
        hidden: widths of the layers h = tiles(x) in front of the pooling.
        dropout: after each of them.
    """

    def __init__(self, in_features: int, hidden: Sequence[int] = (256,), dropout: float = 0.0) -> None:
        super().__init__()
        self.in_features, self.width = in_features, hidden[-1] if hidden else in_features
        self.tiles = tile_layers(in_features, hidden, dropout)

    def forward(self, bags: PackedBags, labels: Tensor | None = None) -> BagOutput:
        """See :meth:`core.mil.aggregator.Aggregator.forward`."""
        hidden = map_in_chunks(self.tiles, bags.features)  # [T, E]
        rows = segment_argmax(hidden, bags.offsets)  # [B, E]
        largest = hidden.gather(0, rows)
        added = torch.zeros_like(hidden).scatter_(0, rows, largest.detach())  # [T, E]
        return BagOutput(largest, tile_shares(added.abs().sum(1), bags), None if self.training else added)

    def contributions(self, output: BagOutput, head_weight: Tensor) -> Tensor:
        """Values are already what a tile adds to the embedding: its channels that are maxima."""
        return tile_values(output) @ head_weight.T
