"""One of several ordered grades a bag."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.mil.tasks.task import BagTask, auxiliary, check_classes, label, share_of_mean
from core.types import Encoded, UserError

if TYPE_CHECKING:
    from core.mil.aggregator import Aggregator
    from core.mil.data import BagBatch


class BagOrdinal(BagTask):
    """Proportional odds (McCullagh 1980, "Regression models for ordinal data", eq. 2.1): one score, C - 1 thresholds.

    ``P(grade <= k) = sigmoid(threshold_k - score)``, trained by its exact likelihood. Thresholds are a first one and
    softplus gaps, so they stay in order whatever the optimiser does, and one signed score a tile explains the grade.
    ``predict`` gives probabilities [B, C], rows sum to one. A bag of unknown grade (-1) counts as zero.

    Args:
        aggregator: see :class:`core.mil.tasks.task.BagTask`; it is given the grades as labels.
        classes: C, at least 2.
        column: label column with int64 grades in [0, C), 0 the lowest.
    """

    def __init__(self, aggregator: Aggregator, classes: int, column: str = "label") -> None:
        if classes < 2:
            raise UserError(f"an ordinal task with {classes} grades", "bag_task.classes", "use at least two")
        super().__init__(aggregator, 1, bias=False)  # the thresholds hold the level
        self.classes, self.column = classes, column
        self.first = nn.Parameter(torch.tensor([-(classes - 2) / 2]))  # unit gaps around zero
        self.gaps = nn.Parameter(torch.full((classes - 2,), math.log(math.e - 1)))

    def prepare(self, labels: Mapping[str, npt.ArrayLike], ids: Sequence[str], patients: Sequence[str]) -> None:
        check_classes(labels, self.column, self.classes, ids)

    def encode(self, batch: BagBatch, share: float) -> Encoded:  # type: ignore[override]
        grades = label(batch, self.column)
        scores, output = self(batch.bags, grades)
        losses = F.nll_loss(self._logarithms(scores), grades, ignore_index=-1, reduction="none")
        return Encoded({}, {"proportional_odds": share_of_mean(losses, share), **auxiliary(output, share)})

    def outcome(self, scores: Tensor) -> Tensor:
        return self._logarithms(scores).exp()

    def score_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        return ("grade",)

    def _logarithms(self, scores: Tensor) -> Tensor:
        return log_probabilities(scores[:, 0], self.first.to(scores.dtype), F.softplus(self.gaps.to(scores.dtype)))


def log_probabilities(scores: Tensor, first: Tensor, gaps: Tensor) -> Tensor:
    """Logarithms of the C grades' probabilities, [B, C]; finite for any score.

    A difference of sigmoids is ``sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b))``, which in
    logarithms loses nothing where both sigmoids are near 0 or near 1.

    Args:
        scores: [B], higher is a higher grade. first: [1], the lowest threshold. gaps: [C - 2] > 0, the steps from it.
    """
    thresholds = torch.cat([first, first + gaps.cumsum(0)])  # [C - 1]
    below = thresholds - scores[:, None]  # [B, C - 1] logit of P(grade <= k)
    least, most = F.logsigmoid(below[:, :1]), F.logsigmoid(-below[:, -1:])
    between = F.logsigmoid(below[:, 1:]) + F.logsigmoid(-below[:, :-1]) + torch.log(-torch.expm1(-gaps))
    return torch.cat([least, between, most], dim=1)
