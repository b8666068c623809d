"""Attention-based MIL."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from core.mil.attention import AttentionPooling


class ABMIL(AttentionPooling):
    """z = sum_i a_i h_i with a = softmax_i(w^T tanh(V h_i)) (Ilse et al. 2018, arXiv 1802.04712, eq. 7 and 8).

    V has a bias, as in the authors' code; w has none, since softmax would cancel it.

    Args:
        in_features: D.
        hidden: widths of the layers h = tiles(x) in front of the pooling.
        attention: rows of V.
        dropout: after each of the hidden layers.
    """

    def __init__(
        self, in_features: int, hidden: Sequence[int] = (256,), attention: int = 128, dropout: float = 0.0
    ) -> None:
        super().__init__(in_features, hidden, dropout)
        self.key = nn.Linear(self.tile_width, attention)
        self.score = nn.Linear(attention, 1, bias=False)

    def scores(self, hidden: Tensor) -> Tensor:
        """w^T tanh(V h)."""
        scores: Tensor = self.score(self.key(hidden).tanh())
        return scores
