"""The target-matrix contrastive loss in sigmoid form; its diagonal case is SigLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from core.objectives.exchange import Exchange
from core.objectives.objective import Objective
from core.objectives.tiles import TILE, Kernel, Tile, sweep
from core.types import LossTerms, Policy, Targets, UserError


class SigmoidContrastive(Objective):
    """Binary cross-entropy of every pair that is not left out, summed, over the number of images.

    With S the logits (bias included) and T the policy's values,

        L = 1/B sum_ij [T_ij softplus(-S_ij) + (1 - T_ij) softplus(S_ij)];

    the diagonal policy is SigLIP (arXiv 2303.15343). A pair counts with the product of its row and column weight, and B
    is then the sum of the row weights.

    Args:
        policy: values in [0, 1], or NaN.
        tile: rows of a tile of the sweep.

    Raises:
        UserError: a value of the policy is outside [0, 1].
    """

    needs_bias = True
    initial_scale = 10.0
    initial_bias = -10.0

    def __init__(self, policy: Policy | None = None, tile: int = TILE) -> None:
        super().__init__()
        self.policy, self.tile = policy or Policy.diagonal(), tile
        if any(value < 0 or value > 1 for value in self.policy.table()):
            raise UserError(f"a sigmoid target is outside [0, 1]: {self.policy}", "objective.policy")

    def forward(
        self,
        images: Tensor,
        texts: Tensor,
        targets: Targets,
        scale: Tensor,
        bias: Tensor | None,
        exchange: Exchange,
    ) -> LossTerms:
        """See :meth:`core.objectives.objective.Objective.forward`."""
        kernel = CrossEntropy(targets.column_weight)
        (lines,) = sweep(kernel, images, texts, targets, self.policy, scale, bias, exchange, self.tile)
        if targets.row_weight is None:
            return LossTerms(lines.sum() / max(targets.row_splits[-1], 1))
        rows = slice(targets.row_splits[exchange.rank], targets.row_splits[exchange.rank + 1])
        whole = targets.row_weight.to(lines.dtype).sum()
        return LossTerms((lines * targets.row_weight[rows].to(lines.dtype)).sum() / whole.where(whole > 0, 1.0))


class CrossEntropy(Kernel):
    """One output: the binary cross-entropies of every row, weighted by column and summed, [b]."""

    def __init__(self, column_weight: Tensor | None) -> None:
        self.column_weight = column_weight

    def _weights(self, columns: slice, like: Tensor) -> Tensor | None:
        return None if self.column_weight is None else self.column_weight[columns].to(like.dtype)

    def reduce(self, tiles: Iterator[Tile], rows: int, columns: int, like: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        lines = like.new_zeros(rows)
        for tile in tiles:
            logits, target = _take(tile)
            # both forms of softplus keep their digits: the loss of a certain pair is no difference of large numbers
            pairs = -target * F.logsigmoid(logits) - (1 - target) * F.logsigmoid(-logits)
            losses = F.logsigmoid(tile.logits.neg_()).neg_()
            losses[tile.i, tile.j] = pairs.masked_fill(target.isnan(), 0.0)
            weights = self._weights(tile.columns, like)
            lines[tile.rows] += losses.sum(1) if weights is None else losses @ weights
        return [lines], []

    def gradient(self, saved: list[Tensor], gradients: list[Tensor]) -> Callable[[Tile], Tensor]:
        (of_line,) = gradients

        def of_tile(tile: Tile) -> Tensor:
            logits, target = _take(tile)
            pairs = (1 - target) * logits.sigmoid() - target * (-logits).sigmoid()
            result = tile.logits.sigmoid_()
            result[tile.i, tile.j] = pairs.masked_fill(target.isnan(), 0.0)
            weights = self._weights(tile.columns, result)
            if weights is not None:
                result *= weights
            return result.mul_(of_line[tile.rows, None])

        return of_tile


def _take(tile: Tile) -> tuple[Tensor, Tensor]:
    """Logits and targets [k] of the pairs that are not plain negatives, which leave the tile as -inf (loss 0)."""
    logits = tile.logits[tile.i, tile.j]
    tile.logits[tile.i, tile.j] = -torch.inf
    return logits, tile.value
