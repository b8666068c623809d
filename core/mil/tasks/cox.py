"""Survival by Cox's partial likelihood: who had the event first, among those still at risk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.mil.tasks.survival import SurvivalTask, follow_up
from core.mil.tasks.task import auxiliary, lifted
from core.objectives.exchange import Exchange
from core.types import Encoded, LossTerms, UserError

if TYPE_CHECKING:
    from core.mil.aggregator import Aggregator
    from core.mil.data import BagBatch

Ties = Literal["efron", "breslow"]


class BagCox(SurvivalTask):
    """The negative log partial likelihood of the *global* batch, mean over its events (Cox 1972).

    It couples samples: risks are gathered over ranks, each rank keeps the terms of its own events, and the shares sum
    to the loss of the whole batch. Large risk sets in little memory come from ``step=cached``, never from adding up
    the losses of small batches, which is another loss. A batch without events is worth zero. ``predict`` gives the
    log-risk [B], known up to a constant.

    Args:
        aggregator: see :class:`core.mil.tasks.task.BagTask`.
        ties: how events at the same time share their risk set: ``efron`` (1977) or ``breslow`` (1974).
    """

    def __init__(self, aggregator: Aggregator, ties: Ties = "efron") -> None:
        if ties not in ("efron", "breslow"):
            raise UserError(f"ties is '{ties}'", "bag_task.ties", "use efron or breslow")
        super().__init__(aggregator, 1, bias=False)  # a constant cancels in every ratio of risks
        self.ties: Ties = ties

    def encode(self, batch: BagBatch, share: float) -> Encoded:  # type: ignore[override]
        scores, output = self(batch.bags)
        time, event = follow_up(batch)
        return Encoded({"risk": scores[:, 0]}, auxiliary(output, share), torch.stack([time, event.to(time)], dim=1))

    def loss(self, encoded: Encoded, exchange: Exchange) -> LossTerms:
        follow_ups = encoded.targets
        rank = torch.full_like(follow_ups[:, :1], exchange.rank)
        table = exchange.gather(torch.cat([follow_ups, rank], dim=1))  # [n, 3]
        risk = exchange.gather(lifted(encoded.embeddings["risk"]))
        if len(table) < 2:
            raise UserError(
                "the batch holds one bag, whose partial likelihood is 1 whatever the model says",
                "sampler",
                "use larger batches (with step=cached where memory is short), or bag_task=discrete_hazard",
            )
        own = table[:, 2] == exchange.rank
        with torch.autocast(risk.device.type, enabled=False):
            terms = partial_likelihood(risk, table[:, 0], table[:, 1] > 0, self.ties, own.nonzero().flatten())
            share = terms.sum() / table[:, 1].sum().clamp(min=1).to(terms.dtype)
        return LossTerms(share, {"partial_likelihood": share.detach()})

    def outcome(self, scores: Tensor) -> Tensor:
        return scores[:, 0]

    def risk(self, predictions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return predictions


def partial_likelihood(risk: Tensor, time: Tensor, event: Tensor, ties: Ties, rows: Tensor | None = None) -> Tensor:
    """``log sum_j w_ij exp(risk_j) - risk_i`` of each sample with an event, 0 of those without.

    ``w_ij`` is 1 for whoever is still at risk at ``time_i`` (``time_j >= time_i``: one censored then was at risk then).
    Efron takes a part away from those who have the event at that same time: for the l-th of d such events (l from 0,
    any order) they weigh ``1 - l/d``. As one log-sum-exp with weights there is no difference of sums that could cancel.

    Args:
        risk: [n] log-risks. time: [n]. event: [n] bool.
        rows: [r] which samples are wanted; all by default.

    Returns:
        [r], finite for finite risks.
    """
    chosen = torch.arange(len(risk), device=risk.device) if rows is None else rows
    weight = (time >= time[chosen, None]).to(risk.dtype)  # [r, n]
    if ties == "efron":
        tied = (time == time[chosen, None]) & event
        earlier = tied & (torch.arange(len(risk), device=risk.device) < chosen[:, None])
        fraction = earlier.sum(dim=1).to(risk.dtype) / tied.sum(dim=1).clamp(min=1).to(risk.dtype)
        weight = weight - tied.to(risk.dtype) * fraction[:, None]
    total = torch.logsumexp(risk + weight.log(), dim=1)
    return torch.where(event[chosen], total - risk[chosen], 0.0)
