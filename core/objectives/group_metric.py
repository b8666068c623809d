"""KEEP's group metric loss: groups of images and captions as wholes, with the related ones left out."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from core.objectives.exchange import Exchange
from core.objectives.normalisers import Normalisers
from core.objectives.objective import Objective
from core.objectives.tiles import TILE, sweep
from core.types import LossTerms, Policy, Relation, Targets, UserError


class GroupMetric(Objective):
    """Least-hard positive of a group against its hardest negatives in all other groups (KEEP, arXiv 2412.13126).

    With S the logits, g a group with images i and captions j, and n_ij the weight of a pair of different groups,

        P_g = log sum_{i in g} 1 / sum_{j in g} exp(-S_ij)
        N_g = log sum_{i in g} sum_{j not in g} n_ij exp(S_ij)
        L   = mean_g log(1 + exp(N_g - P_g)),

    averaged over S and its transpose. Groups of one image and one caption without exclusions make it InfoNCE.

    The pairs of a group are its positives, whatever the policy says of them. For the others a policy's value v sets
    n = 1 - v: 0 is a full negative, NaN and 1 are left out, and a soft 0.5 counts half. The published code overwrites
    the cosine of a related pair with -1, which leaves it a (weak) negative; here it is gone. It also decides for two
    groups as a whole: here every pair is judged by its own concept sets, so that groups of mixed sets are exact, and a
    block goes as a whole when all of its sets are related. Groups may be of any size and lie on several ranks; a group
    without captions or without images does not enter the mean. A sample that belongs to no group has one of its own.

    Args:
        policy: values >= 0 or NaN for pairs of different groups; by default all related pairs are left out.
        tile: rows of a tile of the sweep.

    Raises:
        UserError: a value of the policy is negative, or the targets carry sample weights, which have no meaning here.
    """

    initial_scale = 1 / 0.04

    def __init__(self, policy: Policy | None = None, tile: int = TILE) -> None:
        super().__init__()
        self.policy, self.tile = policy or Policy.graph(), tile
        if any(value < 0 for value in self.policy.table()):
            raise UserError(f"a target is negative: {self.policy}", "objective.policy", "use values >= 0 or nan")

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
        if targets.row_weight is not None or targets.column_weight is not None:
            raise UserError("the group metric loss has no sample weights", "objective", "use SoftmaxContrastive")
        kernel = Normalisers(exchange, sign=-1.0)
        pairs = _as_negatives(self.policy)
        sides = sweep(kernel, images, texts, targets, pairs, scale, bias, exchange, self.tile)
        sizes = [stop - start for start, stop in pairwise(targets.row_splits)]
        rows = exchange.gather(torch.stack(sides[:2], dim=1), sizes)  # [B, 2]: groups may lie on several ranks
        # from here on every rank holds the same numbers and answers for an equal share of them
        image_to_text = 0.5 * group_loss(rows[:, 0], rows[:, 1], targets.row_group) / exchange.size
        text_to_image = 0.5 * group_loss(sides[3], sides[4], targets.column_group) / exchange.size
        parts = {"image_to_text": image_to_text.detach(), "text_to_image": text_to_image.detach()}
        return LossTerms(image_to_text + text_to_image, parts)


def group_loss(negatives: Tensor, positives: Tensor, group: Tensor) -> Tensor:
    """Mean over groups of softplus(N_g - P_g).

    Args:
        negatives: [n] log sum of exp(S) over the negatives of a line (a row, or a column).
        positives: [n] log sum of exp(-S) over the positives of a line; -inf where it has none.
        group: [n] int64 group of a line.

    Returns:
        Scalar; 0 when no group has a positive.
    """
    names, index = torch.unique(group, return_inverse=True)
    easiest = torch.where(positives > -torch.inf, -positives, -torch.inf)
    least_hard = group_logsumexp(easiest, index, len(names))
    hardest = group_logsumexp(negatives, index, len(names))
    held = least_hard > -torch.inf
    margin = torch.where(held, hardest - least_hard, -torch.inf)
    return -F.logsigmoid(-margin).sum() / held.sum().clamp(min=1)


def group_logsumexp(values: Tensor, index: Tensor, size: int) -> Tensor:
    """log sum of exp(values[k]) over the k with ``index[k] == g``, [size]; -inf (gradient 0) where all are -inf."""
    peak = values.detach().new_full((size,), -torch.inf).scatter_reduce(0, index, values.detach(), "amax")
    shift = peak.masked_fill(peak == -torch.inf, 0.0)
    total = values.new_zeros(size).index_add(0, index, (values - shift[index]).exp())
    empty = total == 0
    return torch.where(empty, -torch.inf, shift + total.masked_fill(empty, 1.0).log())


def _as_negatives(policy: Policy) -> Policy:
    """The policy in the kernel's terms: pairs of a group are positives, -v is a negative of weight 1 - v."""

    def value(wanted: float) -> float:
        return -wanted if wanted < 1 else math.nan  # NaN < 1 is false

    table = [value(wanted) for wanted in policy.table()]
    return replace(
        policy,
        unrelated=table[Relation.UNRELATED],
        descendant=table[Relation.DESCENDANT],
        ancestor=table[Relation.ANCESTOR],
        shared=table[Relation.SHARED],
        equal=table[Relation.EQUAL],
        group=1.0,
        own=1.0,
    )
