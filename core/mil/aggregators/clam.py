"""CLAM: gated attention with a clustering term on the tiles it looks at most and least."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.mil.aggregator import BagOutput
from core.mil.attention import AttentionPooling
from core.mil.bags import PackedBags
from core.mil.segments import segment_topk


class CLAM(AttentionPooling):
    """Gated attention pooling plus an instance term (Lu et al. 2021, arXiv 2004.09666, Methods).

    h = ReLU(W x), a = softmax(w^T (tanh(V h) * sigmoid(U h))). For the class of a bag, its k most attended tiles are
    taken for positive and its k least attended for negative; with ``exclusive`` classes the k most attended are
    negative for every other class. One linear score a class, s, is fitted to these pseudo-labels t = +-1 with the
    paper's smooth SVM of two classes at temperature 1, ``softplus(1 - t s)``. The paper's loss c L_bag + (1 - c) L_inst
    is here L_bag + (1 - c)/c L_inst: the same minimum.

    Departures. k is at most half the bag, so that no tile is taken for both, and a bag of one tile has the term 0; the
    published code raises on bags shorter than k and labels tiles both ways below 2 k. Tiles are ranked by scores before
    the softmax, whose small values tie. s is one number in place of two logits (their difference). The head over
    several branches is the task's, and sees all of them where the paper's sees its own alone. Picked tiles go through
    the layers again, so with dropout they have masks of their own.

    Args:
        in_features: D.
        classes: of the task; None (a task without classes) leaves the instance term out.
        branches: "single" attention (CLAM-SB), or one for each class ("multi", CLAM-MB).
        exclusive: whether a bag of one class holds no tile of another (subtypes of a tumour).
        hidden: width of h.
        attention: rows of V and U.
        k: tiles taken for each sign.
        bag_weight: c.
        dropout: after h, tanh and sigmoid.
    """

    def __init__(
        self,
        in_features: int,
        classes: int | None,
        branches: Literal["single", "multi"] = "single",
        exclusive: bool = False,
        hidden: int = 512,
        attention: int = 256,
        k: int = 8,
        bag_weight: float = 0.7,
        dropout: float = 0.25,
    ) -> None:
        columns = classes if branches == "multi" and classes is not None else 1
        super().__init__(in_features, (hidden,), dropout, columns)
        self.exclusive, self.k, self.instance_weight = exclusive, k, (1 - bag_weight) / bag_weight
        self.key = nn.Sequential(nn.Linear(hidden, attention), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(hidden, attention), nn.Sigmoid(), nn.Dropout(dropout))
        self.score = nn.Linear(attention, columns, bias=False)  # softmax would cancel a bias
        self.instance = None if classes is None else nn.Linear(hidden, classes)

    def scores(self, hidden: Tensor) -> Tensor:
        """w^T (tanh(V h) * sigmoid(U h)), [t, branches]."""
        scores: Tensor = self.score(self.key(hidden) * self.gate(hidden))
        return scores

    def forward(self, bags: PackedBags, labels: Tensor | None = None) -> BagOutput:
        """See :meth:`core.mil.aggregator.Aggregator.forward`; with labels, ``auxiliary`` holds the instance term."""
        output, scores = self.attend(bags)
        if labels is None or self.instance is None:
            return output
        term = self.instance_weight * self.instance_loss(bags, scores.detach(), labels, self.instance)
        return replace(output, auxiliary={"instance": term})

    def instance_loss(self, bags: PackedBags, scores: Tensor, labels: Tensor, instance: nn.Linear) -> Tensor:
        """Mean over the bags of L_inst, scalar; a bag of unknown class (-1) or of one tile has 0.

        Args:
            bags: the pack.
            scores: [T, branches] by which tiles are picked.
            labels: [B] int64.
            instance: h -> s, one a class.
        """
        k = (bags.lengths // 2).clamp(max=self.k)  # [B]
        k = k * (labels >= 0)
        total = torch.zeros(len(bags), dtype=scores.dtype, device=scores.device)
        for c in range(instance.out_features):
            inside = labels == c  # [B]
            column = scores[:, c if self.columns > 1 else 0]
            high, _ = segment_topk(column, bags.offsets, k if self.exclusive else k * inside)
            low, _ = segment_topk(column, bags.offsets, k * inside, largest=False)
            rows = torch.cat([high, low])
            owner = bags.owner[rows]
            sign = torch.where(inside[owner], 1.0, -1.0)
            sign[len(high) :] = -1.0
            loss = F.softplus(1 - sign * instance(self.tiles(bags.features[rows]))[:, c])
            picked = (k * (1 + inside.long()))[owner]  # 2 k of the bag's own class, k of another
            total = total.index_add(0, owner, (loss / picked).to(total.dtype))
        return total.mean() / (instance.out_features if self.exclusive else 1)
