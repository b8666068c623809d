"""The target-matrix contrastive loss in softmax form; its diagonal case is CLIP's InfoNCE."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from core.objectives.exchange import Exchange
from core.objectives.normalisers import Normalisers
from core.objectives.objective import Objective
from core.objectives.tiles import TILE, sweep
from core.types import LossTerms, Policy, Targets, UserError


class SoftmaxContrastive(Objective):
    """Cross-entropy of every image over captions and of every caption over images.

    With S the logits, T the policy's values, P = T with rows summing to 1 and Q = T with columns summing to 1,

        L = 1/2 mean_i [lse_j S_ij - sum_j P_ij S_ij] + 1/2 mean_j [lse_i S_ij - sum_i Q_ij S_ij],

    log-sum-exps over the pairs that are not left out (NaN), means weighted by the targets' row and column weights.
    UniCL (arXiv 2204.03610) is a policy with group = 1, CLIP (arXiv 2103.00020) the diagonal one. An image or caption
    without any positive has nothing to be drawn to: it serves as a negative of others and does not enter the mean. One
    with everything but its positives left out has loss 0 and gradient 0.

    Args:
        policy: values >= 0 or NaN.
        tile: rows of a tile of the sweep.

    Raises:
        UserError: a value of the policy is negative.
    """

    def __init__(self, policy: Policy | None = None, tile: int = TILE) -> None:
        super().__init__()
        self.policy, self.tile = policy or Policy.diagonal(), tile
        if any(value < 0 for value in self.policy.table()):
            raise UserError(
                f"a softmax target is negative: {self.policy}", "objective.policy", "use values >= 0 or nan"
            )

    def forward(
        self,
        images: Tensor,
        texts: Tensor,
        targets: Targets,
        scale: Tensor,
        bias: Tensor | None,
        exchange: Exchange,
    ) -> LossTerms:
        """See :meth:`core.objectives.objective.Objective.forward`; a bias cancels."""
        kernel = Normalisers(exchange)
        sides = sweep(kernel, images, texts, targets, self.policy, scale, bias, exchange, self.tile)
        rows = slice(targets.row_splits[exchange.rank], targets.row_splits[exchange.rank + 1])
        columns = slice(targets.column_splits[exchange.rank], targets.column_splits[exchange.rank + 1])
        # columns are complete everywhere: a rank answers for those of its own captions
        mine = [side[columns] for side in sides[3:]]
        image_to_text = 0.5 * _mean(sides[0], sides[1], sides[2], targets.row_weight, rows, exchange)
        text_to_image = 0.5 * _mean(mine[0], mine[1], mine[2], targets.column_weight, columns, exchange)
        parts = {"image_to_text": image_to_text.detach(), "text_to_image": text_to_image.detach()}
        return LossTerms(image_to_text + text_to_image, parts)


def _mean(
    negatives: Tensor, positives: Tensor, gap: Tensor, weight: Tensor | None, part: slice, exchange: Exchange
) -> Tensor:
    """This rank's share of the weighted mean cross-entropy over the lines [n] that have a positive."""
    held = positives.detach() > -torch.inf
    weights = held.to(gap.dtype) if weight is None else held * weight[part].to(gap.dtype)
    margin = torch.where(held, negatives - positives, -torch.inf)
    # -logsigmoid is softplus with its digits kept at both ends
    loss = (weights * (gap - F.logsigmoid(-margin))).sum()
    whole = exchange.sum(weights.sum())
    return loss / whole.where(whole > 0, 1.0)
