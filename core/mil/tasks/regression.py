"""A number a bag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.mil.tasks.task import BagTask, auxiliary, label, share_of_mean
from core.types import Encoded, UserError

if TYPE_CHECKING:
    from core.mil.aggregator import Aggregator
    from core.mil.data import BagBatch


class BagRegression(BagTask):
    """Mean squared error in standard deviations of the training bags' targets; an unknown one (NaN) counts as zero.

    ``predict`` gives the target in its own unit, [B].

    Args:
        aggregator: see :class:`core.mil.tasks.task.BagTask`.
        column: label column with floats.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, aggregator: Aggregator, column: str = "label") -> None:
        super().__init__(aggregator, 1)
        self.column = column
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))

    def prepare(self, labels: Mapping[str, npt.ArrayLike], ids: Sequence[str], patients: Sequence[str]) -> None:
        if self.column not in labels:
            raise UserError(f"the training bags have no label column '{self.column}'", "bag_task", "name the column")
        values = np.asarray(labels[self.column], dtype=np.float64)
        known = values[~np.isnan(values)]
        if not np.isfinite(known).all():
            named = ids[int(np.flatnonzero(np.isinf(values))[0])]
            raise UserError(f"{self.column} of bag '{named}' is infinite", f"column {self.column}", "correct it")
        if len(known) < 2 or known.std() == 0:
            raise UserError(
                f"{len(known)} training bags have a {self.column}, and it does not vary", f"column {self.column}"
            )
        self.mean.fill_(known.mean())
        self.deviation.fill_(known.std())

    def encode(self, batch: BagBatch, share: float) -> Encoded:  # type: ignore[override]
        values = label(batch, self.column)
        scores, output = self(batch.bags)
        known = ~values.isnan()
        # NaN is replaced before the difference: masked afterwards it would still reach the gradient
        wanted = (values.nan_to_num().to(scores.dtype) - self.mean) / self.deviation
        losses = (scores[:, 0] - wanted).square().masked_fill(~known, 0.0)
        return Encoded({}, {"squared_error": share_of_mean(losses, share), **auxiliary(output, share)})

    def outcome(self, scores: Tensor) -> Tensor:
        return scores[:, 0] * self.deviation + self.mean

    def readable(self, shares: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """In the unit of the target."""
        return shares * np.float32(self.deviation.item())

    def score_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        return ("estimate",)

    def outcome_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        return ("estimate",)
