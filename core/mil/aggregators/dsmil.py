"""DSMIL: a critical tile, and attention by likeness to it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.mil.aggregator import Aggregator, BagOutput, tile_layers, tile_values
from core.mil.bags import PackedBags
from core.mil.chunked import map_in_chunks
from core.mil.segments import segment_argmax, segment_pool, segment_softmax


class DSMIL(Aggregator):
    """Dual-stream MIL (Li et al. 2021, arXiv 2011.08939, section 3.2), one pair of streams a class.

    First stream: instance scores s_i = W0 h_i, whose largest marks the critical tile m of the bag. Second: attention
    a = softmax_i(<q_i, q_m> / sqrt(d)) with q = Wq h, and b = sum_i a_i v_i with v = Wv h. The embedding is s_m of
    every stream, then b of every stream, [S + S V].

    Departures. The paper's output (W0 h_m + Wb b) / 2 fixes how the streams are joined; the task's linear head over
    both learns it, the paper's being the special case (I, Wb) / 2. As in the authors' training the first stream also
    has a loss of its own, as heavy as the bag's: binary cross-entropy of s_m against the classes (``auxiliary``; a bag
    of unknown class has 0). Two classes have one stream, of the second: the largest score of "normal" would say nothing
    of a bag with both. The authors' code sorts the tiles again for every class, by an order that belongs to the first
    sorting, so that from the second class on its critical tile is a wrong one; here it is the maximum.

    Args:
        in_features: D.
        classes: of the task; None (a task without classes) makes one stream, trained through the head alone.
        hidden: widths of the layers h = tiles(x).
        query: d, width of q.
        value: V, width of v.
        dropout: after each of the hidden layers, and in front of Wv.
    """

    def __init__(
        self,
        in_features: int,
        classes: int | None,
        hidden: Sequence[int] = (256,),
        query: int = 128,
        value: int = 256,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.streams = 1 if classes is None or classes == 2 else classes
        self.labelled = classes is not None
        self.in_features, self.width = in_features, self.streams * (1 + value)
        self.tiles = tile_layers(in_features, hidden, dropout)
        width = hidden[-1] if hidden else in_features
        self.score = nn.Linear(width, self.streams)
        self.query = nn.Linear(width, query)
        self.value = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, value))

    def forward(self, bags: PackedBags, labels: Tensor | None = None) -> BagOutput:
        """See :meth:`core.mil.aggregator.Aggregator.forward`."""
        together = map_in_chunks(self._instances, bags.features)
        scores, query, value = together.tensor_split([self.streams, self.streams + self.query.out_features], dim=1)
        rows = segment_argmax(scores, bags.offsets)  # [B, S]
        critical = scores.gather(0, rows)
        # [B, S, d] beside the tiles of each bag: one small product a bag instead of [T, S, d] in memory
        likeness = [query[a:b] @ q.T for (a, b), q in zip(pairwise(bags.offsets.tolist()), query[rows], strict=True)]
        attention = segment_softmax(torch.cat(likeness) / query.shape[1] ** 0.5, bags.offsets)  # [T, S]
        pooled = segment_pool(attention, value, bags.offsets)  # [B, S, V]
        values = None
        if not self.training:
            marked = torch.zeros_like(scores).scatter_(0, rows, critical.detach())
            values = torch.cat([marked, value.detach()], dim=1)  # [T, S + V]
        auxiliary = {}
        if labels is not None and self.labelled:
            first = 1 if self.streams == 1 else 0
            wanted = labels[:, None] == torch.arange(first, first + self.streams, device=labels.device)  # [B, S]
            terms = F.binary_cross_entropy_with_logits(critical, wanted.to(critical.dtype), reduction="none")
            auxiliary["critical"] = (terms.mean(1) * (labels >= 0)).mean()
        embedding = torch.cat([critical, pooled.flatten(1)], dim=1)
        return BagOutput(embedding, attention.detach(), values, auxiliary)

    def contributions(self, output: BagOutput, head_weight: Tensor) -> Tensor:
        """The critical tile answers for its score, every tile for its share of b."""
        critical, value = tile_values(output).tensor_split([self.streams], dim=1)
        attended = BagOutput(output.embedding, output.weights, value)
        first: Tensor = critical @ head_weight[:, : self.streams].T
        return first + super().contributions(attended, head_weight[:, self.streams :])

    def _instances(self, features: Tensor) -> Tensor:
        hidden = self.tiles(features)
        return torch.cat([self.score(hidden), self.query(hidden), self.value(hidden)], dim=1)
