"""Mean pooling."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from core.mil.aggregator import Aggregator, BagOutput, tile_layers
from core.mil.bags import PackedBags
from core.mil.chunked import map_in_chunks
from core.mil.segments import segment_mean


class MeanPooling(Aggregator):
    """z_b = mean over the tiles of bag b of h_i (MI-Net with mean pooling, Wang et al. 2018, arXiv 1610.02501).

    With a linear head this is also the mean of instance logits. ``hidden=[]`` averages the features themselves: the
    plain baseline that every other head has to beat.

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
        weights = (1 / bags.lengths.to(hidden.dtype))[bags.owner]
        return BagOutput(segment_mean(hidden, bags.offsets), weights, None if self.training else hidden.detach())
