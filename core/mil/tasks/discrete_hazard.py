"""Survival in a few intervals of time: the chance of the event in each, given that it has not happened before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from core.mil.tasks.survival import SurvivalTask, follow_up, one_a_patient
from core.mil.tasks.task import auxiliary, share_of_mean
from core.types import Encoded, UserError

if TYPE_CHECKING:
    from core.mil.aggregator import Aggregator
    from core.mil.data import BagBatch


class BagDiscreteHazard(SurvivalTask):
    """The likelihood of discrete-time hazards (Zadeh and Schmid 2020, arXiv 1907.09240), which needs no risk set.

    Bins are ``[edge_k, edge_k+1)`` with edges that share out the *training* patients' uncensored times equally, each
    patient once; the first begins at 0 and the last has no end. ``predict`` gives the survival function at the end of
    each bin, [B, bins]. Concordance is to be computed on the times themselves, never on bins.

    Args:
        aggregator: see :class:`core.mil.tasks.task.BagTask`.
        bins: number of intervals, at least 2.
    """

    edges: Tensor

    def __init__(self, aggregator: Aggregator, bins: int = 4) -> None:
        if bins < 2:
            raise UserError(f"bins is {bins}", "bag_task.bins", "use at least two")
        super().__init__(aggregator, bins)
        self.bins = bins
        self.register_buffer("edges", torch.full((bins - 1,), torch.nan, dtype=torch.float64))

    def prepare(self, labels: Mapping[str, npt.ArrayLike], ids: Sequence[str], patients: Sequence[str]) -> None:
        time, event = one_a_patient(labels, ids, patients)
        self.edges.copy_(torch.from_numpy(quantile_edges(time[event], self.bins)))

    def encode(self, batch: BagBatch, share: float) -> Encoded:  # type: ignore[override]
        if self.edges.isnan().any():
            raise RuntimeError("prepare() must see the training labels before the first step: it makes the bins")
        time, event = follow_up(batch)
        scores, output = self(batch.bags)
        losses = hazard_loss(scores, torch.bucketize(time, self.edges.to(time), right=True), event)
        return Encoded({}, {"hazard_likelihood": share_of_mean(losses, share), **auxiliary(output, share)})

    def outcome(self, scores: Tensor) -> Tensor:
        return F.logsigmoid(-scores).cumsum(dim=1).exp()

    def risk(self, predictions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        risks: npt.NDArray[np.float32] = -predictions.sum(axis=1)
        return risks


def quantile_edges(times: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.float64]:
    """The ``bins - 1`` inner edges that share these times [N] out most equally, each halfway between two of them.

    Quantiles themselves fall on tied times, and then leave a bin empty at one of the ends.

    Raises:
        UserError: too few different times, or too many equal ones, for a time in every bin.
    """
    values, counts = np.unique(times, return_counts=True)
    below = counts.cumsum()[:-1]  # times before each gap between two values
    wanted = len(times) * np.arange(1, bins) / bins
    gaps = np.unique(np.abs(below - wanted[:, None]).argmin(axis=1)) if len(below) else below
    if len(gaps) < bins - 1:
        raise UserError(
            f"{len(times)} training patients with an event have {len(values)} different times, too few for {bins} bins",
            "bag_task.bins",
            "use fewer bins",
        )
    edges: npt.NDArray[np.float64] = (values[gaps] + values[gaps + 1]) / 2
    return edges


def hazard_loss(scores: Tensor, bins: Tensor, event: Tensor) -> Tensor:
    """Negative log-likelihood of each sample, [B].

    With hazards ``h_k = sigmoid(score_k)`` and ``S_k = prod_{u<=k} (1 - h_u)``: ``-log S_{Y-1} - log h_Y`` for an event
    in bin Y, and ``-log S_Y`` for one censored there. Sums of log-sigmoids: no logarithm is clamped.

    Args:
        scores: [B, K] logits of the hazards. bins: [B] int64 in [0, K). event: [B] bool.
    """
    place = torch.arange(scores.shape[1], device=scores.device)
    survived = place < (bins + (~event).long())[:, None]  # bins that the sample came through
    alive = torch.where(survived, F.logsigmoid(-scores), 0.0).sum(dim=1)
    died = torch.where(event, F.logsigmoid(scores.gather(1, bins[:, None])[:, 0]), 0.0)
    return -(alive + died)
