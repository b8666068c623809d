"""One class a bag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F

from core.mil.tasks.task import BagTask, auxiliary, check_classes, label, share_of_mean
from core.types import Encoded

if TYPE_CHECKING:
    from core.mil.aggregator import Aggregator
    from core.mil.data import BagBatch


class BagClassification(BagTask):
    """Mean cross-entropy of a softmax over C classes; a bag of unknown class (-1) counts as zero.

    ``predict`` gives probabilities [B, C], rows sum to one.

    Args:
        aggregator: see :class:`core.mil.tasks.task.BagTask`; it is given the classes as labels.
        classes: C.
        column: label column with int64 classes in [0, C).
    """

    def __init__(self, aggregator: Aggregator, classes: int, column: str = "label") -> None:
        super().__init__(aggregator, classes)
        self.classes, self.column = classes, column

    def prepare(self, labels: Mapping[str, npt.ArrayLike], ids: Sequence[str], patients: Sequence[str]) -> None:
        check_classes(labels, self.column, self.classes, ids)

    def encode(self, batch: BagBatch, share: float) -> Encoded:  # type: ignore[override]
        classes = label(batch, self.column)
        scores, output = self(batch.bags, classes)
        losses = F.cross_entropy(scores, classes, ignore_index=-1, reduction="none")
        return Encoded({}, {"cross_entropy": share_of_mean(losses, share), **auxiliary(output, share)})

    def outcome(self, scores: Tensor) -> Tensor:
        return scores.softmax(dim=1)

    def readable(self, shares: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Less their mean over the classes: a softmax does not see what is added to every score."""
        centred: npt.NDArray[np.float32] = shares - shares.mean(axis=1, keepdims=True)
        return centred
