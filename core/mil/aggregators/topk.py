"""Top-k pooling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from core.mil.aggregator import Aggregator, BagOutput, tile_layers, tile_shares, tile_values
from core.mil.bags import PackedBags
from core.mil.chunked import map_in_chunks
from core.mil.segments import segment_sum


class TopKPooling(Aggregator):
    """z_be = mean of the k largest h_ie over the tiles of bag b, channel by channel.

    Between max (k = 1) and mean (k all tiles) pooling. On instance logits it is the top-k rule of MI-Zero (Lu et al.
    2023, arXiv 2306.07831); here it works on learned channels, so that a gradient reaches all layers. A bag of fewer
    than 2 k tiles gives its upper half (one tile at least): k is never above half the bag, or short bags would be
    averaged where long ones are searched. Weights as in :class:`core.mil.aggregators.max.MaxPooling`.

    Args:
        in_features: D.
        k: tiles that count in a channel.
        hidden: widths of the layers h = tiles(x) in front of the pooling.
        dropout: after each of them.
    """

    def __init__(self, in_features: int, k: int = 8, hidden: Sequence[int] = (256,), dropout: float = 0.0) -> None:
        super().__init__()
        self.in_features, self.width, self.k = in_features, hidden[-1] if hidden else in_features, k
        self.tiles = tile_layers(in_features, hidden, dropout)

    def forward(self, bags: PackedBags, labels: Tensor | None = None) -> BagOutput:
        """See :meth:`core.mil.aggregator.Aggregator.forward`."""
        hidden = map_in_chunks(self.tiles, bags.features)  # [T, E]
        share = hidden.new_zeros(hidden.shape)  # 1/k where a tile is picked
        for start, stop in pairwise(bags.offsets.tolist()):
            k = min(self.k, max((stop - start) // 2, 1))
            share[start:stop].scatter_(0, hidden.detach()[start:stop].topk(k, dim=0).indices, 1 / k)
        added = share * hidden  # [T, E]
        weights = tile_shares(added.detach().abs().sum(1), bags)
        return BagOutput(segment_sum(added, bags.offsets), weights, None if self.training else added.detach())

    def contributions(self, output: BagOutput, head_weight: Tensor) -> Tensor:
        """Values are already what a tile adds to the embedding: its channels among the k largest."""
        return tile_values(output) @ head_weight.T
