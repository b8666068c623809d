"""Several findings a bag, each there or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from core.mil.tasks.task import BagTask, auxiliary, check_classes, label, share_of_mean
from core.types import Encoded, UserError

if TYPE_CHECKING:
    from core.mil.aggregator import Aggregator
    from core.mil.data import BagBatch


class BagMultilabel(BagTask):
    """Binary cross-entropy, mean over bags and L labels; a label that is uncertain or unknown (-1) counts as zero.

    ``predict`` gives probabilities [B, L].

    Args:
        aggregator: see :class:`core.mil.tasks.task.BagTask`; it is given no labels, which would have to be classes.
        labels: names of the L findings; the columns are ``label.<name>``, with 1, 0 or -1.
    """

    def __init__(self, aggregator: Aggregator, labels: Sequence[str]) -> None:
        if not labels:
            raise UserError("bag_task has no labels", "bag_task.labels", "name at least one finding")
        super().__init__(aggregator, len(labels))
        self.columns = tuple(f"label.{name}" for name in labels)

    def prepare(self, labels: Mapping[str, npt.ArrayLike], ids: Sequence[str], patients: Sequence[str]) -> None:
        for column in self.columns:
            check_classes(labels, column, 2, ids)

    def encode(self, batch: BagBatch, share: float) -> Encoded:  # type: ignore[override]
        scores, output = self(batch.bags)
        wanted = torch.stack([label(batch, column) for column in self.columns], dim=1)  # [b, L]
        known = wanted >= 0
        losses = F.binary_cross_entropy_with_logits(scores, wanted.clamp(min=0).to(scores.dtype), reduction="none")
        losses = losses.masked_fill(~known, 0.0)
        return Encoded({}, {"binary_cross_entropy": share_of_mean(losses, share), **auxiliary(output, share)})

    def outcome(self, scores: Tensor) -> Tensor:
        return scores.sigmoid()

    def score_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        return tuple(column.removeprefix("label.") for column in self.columns)

    def outcome_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"probability.{name}" for name in self.score_names(classes))
