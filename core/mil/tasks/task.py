"""What all bag tasks share: an aggregator, a linear head on the embedding of a bag, prediction and attribution."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from core.objectives.exchange import Exchange
from core.training.task import Task
from core.types import Encoded, LossTerms, UserError

if TYPE_CHECKING:
    from core.mil.aggregator import Aggregator, BagOutput
    from core.mil.bags import PackedBags
    from core.mil.data import BagBatch


@dataclass(frozen=True)
class Explained:
    """What each of T tiles brought to the M scores of its bag, under the names of :meth:`BagTask.score_names`."""

    weights: npt.NDArray[np.float32]  # [T] share of each tile in its bag (attention), mean over its columns
    contributions: npt.NDArray[np.float32]  # [T, M] signed
    words: npt.NDArray[np.float32] | None = None  # [L, M] likewise, of the tokens of a text that is read with the bag


class BagTask(Task):
    """An aggregator with a linear head of K outputs; a subclass says what they mean and how far they are off.

    The head runs in float32 (float64 for a model in float64) under autocast too: it is tiny, and a bf16 logit has
    three digits. Where no loss couples samples, ``loss`` is zero and everything comes out of ``encode``.

    Args:
        aggregator: turns a pack of bags into embeddings [B, E].
        outputs: K.
        bias: whether the head has one; a score whose level cannot matter (a log-risk) has none.
    """

    def __init__(self, aggregator: Aggregator, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.aggregator = aggregator
        self.head = nn.Linear(aggregator.width, outputs, bias=bias)

    def prepare(self, labels: Mapping[str, npt.ArrayLike], ids: Sequence[str], patients: Sequence[str]) -> None:
        """Looks at the labels of the *training* bags once, before the first step: refuses what cannot be learned, and
        keeps what a task derives from them (bins, mean) as buffers, which are saved with the weights.

        Args:
            labels: by column, [N] or [N, ...] of the N training bags.
            ids: [N] of the bags, to name one in an error.
            patients: [N] the independent unit of each.

        Raises:
            UserError: a label is missing or out of range.
        """

    @abstractmethod
    def encode(self, batch: BagBatch, share: float) -> Encoded:  # type: ignore[override]  # bags, not pictures
        """Losses of a (micro-)batch; see :class:`core.training.task.Task`."""

    def loss(self, encoded: Encoded, exchange: Exchange) -> LossTerms:
        """Nothing couples the samples, unless a subclass says so."""
        return LossTerms(self.head.weight.new_zeros(()))

    @abstractmethod
    def outcome(self, scores: Tensor) -> Tensor:
        """What is shown to a person, from the scores [B, K] of the head."""

    def forward(self, bags: PackedBags, labels: Tensor | None = None) -> tuple[Tensor, BagOutput]:
        """Scores [B, K], at least float32, and what the aggregator gave.

        Args:
            bags: B bags with T tiles together.
            labels: [B] int64 class of each bag for aggregators that learn instances by it, -1 unknown.
        """
        output = self.aggregator(bags, labels)
        with torch.autocast(output.embedding.device.type, enabled=False):
            scores = lifted(self.head(output.embedding.to(self.head.weight.dtype)))
        return scores, output

    def predict(self, bags: PackedBags) -> npt.NDArray[np.float32]:
        """:meth:`outcome` of a pack, without gradient and with dropout off; the first dimension is the bags'."""
        with evaluating(self), torch.no_grad():
            values: npt.NDArray[np.float32] = self.outcome(self(bags)[0]).float().cpu().numpy()
        return values

    def contributions(self, bags: PackedBags) -> npt.NDArray[np.float32]:
        """Signed share [T, K] of each tile in the K scores of its bag (the head's bias belongs to no tile)."""
        return self._shares(bags)[1]

    def explain(self, bags: PackedBags) -> Explained:
        """Weights and contributions of every tile, from one forward, as a person can read them."""
        weights, shares = self._shares(bags)
        return Explained(weights.reshape(len(weights), -1).mean(axis=1), self.readable(shares))

    def readable(self, shares: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Contributions [T, M] that mean something alone, from the shares [T, K] in the scores of the head."""
        return shares

    def score_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Names [M] of what :meth:`explain` explains; of a class where there are classes."""
        return tuple(classes)

    def outcome_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Names of the columns of :meth:`comparable`."""
        return tuple(f"probability.{name}" for name in classes)

    def comparable(self, predictions: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Of what ``predict`` gave, the columns that mean the same in a run on other folds: [B, O]."""
        return predictions.reshape(len(predictions), -1).astype(np.float64)

    def _shares(self, bags: PackedBags) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Weights [T] or [T, C], and contributions [T, K]."""
        with evaluating(self), torch.no_grad():
            output = self.aggregator(bags)
            shares = self.aggregator.contributions(output, self.head.weight)
        return output.weights.float().cpu().numpy(), shares.float().cpu().numpy()

    def after_step(self) -> None:
        self.aggregator.after_step()

    def exported(self) -> nn.Module:
        return self


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every submodule's own mode comes back afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def lifted(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def share_of_mean(losses: Tensor, share: float) -> Tensor:
    """Mean of the losses [b, ...] of a (micro-)batch times its share in the global batch: shares sum to the mean."""
    return losses.sum() * (share / max(losses.numel(), 1))


def auxiliary(output: BagOutput, share: float) -> dict[str, Tensor]:
    """The aggregator's own terms (means over the bags of the pack) as shares."""
    return {name: value * share for name, value in output.auxiliary.items()}


def label(batch: BagBatch, column: str) -> Tensor:
    """One label column of a batch, [b].

    Raises:
        UserError: the batch has no such column.
    """
    if column not in batch.labels:
        raise UserError(
            f"the bags have no label column '{column}', only {', '.join(sorted(batch.labels)) or 'none'}",
            "bag_task",
            "name the column by manifest_options.columns, or choose another bag_task",
        )
    values: Tensor = batch.labels[column]
    return values


def check_classes(labels: Mapping[str, npt.ArrayLike], column: str, classes: int, ids: Sequence[str]) -> None:
    """Refuses class numbers outside of -1 (unknown) to ``classes - 1``, and a column without any known class.

    Raises:
        UserError: names the first such bag.
    """
    if column not in labels:
        raise UserError(f"the training bags have no label column '{column}'", "bag_task", "name the column")
    values = np.asarray(labels[column])
    wrong = np.flatnonzero(~((values >= -1) & (values < classes) & (values == np.floor(values))))
    if len(wrong):
        raise UserError(
            f"{column} of bag '{ids[wrong[0]]}' is {values[wrong[0]]} ({len(wrong)} such bags)",
            f"column {column}",
            f"use whole numbers from 0 to {classes - 1}, or -1 for unknown",
        )
    if not (values >= 0).any():
        raise UserError(f"no training bag has a known {column}", f"column {column}", "check the manifest and the split")
