"""A small task with everything a step must survive: dropout, own terms, a temperature, parameters of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from core.objectives.example import example
from core.objectives.exchange import Exchange, LocalExchange, ProcessGroupExchange
from core.objectives.objective import Objective
from core.objectives.sigmoid import SigmoidContrastive
from core.objectives.softmax import SoftmaxContrastive
from core.training.step import Cached, Plain, Step
from core.types import Batch, Encoded, LossTerms, Policy

SIDE, WORDS, WIDTH = 4, 50, 8


class SmallTask(nn.Module):
    """Two small towers; ``image_norm`` is a term that needs no other sample."""

    def __init__(self, objective: Objective, scale: float, dropout: float = 0.0, dtype: torch.dtype = torch.float64):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.image = nn.Sequential(
                nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, WIDTH)
            )
            self.words = nn.EmbeddingBag(WORDS, 16)
            self.text = nn.Sequential(nn.Dropout(dropout), nn.Linear(16, WIDTH))
        self.logit_scale = nn.Parameter(torch.tensor(scale).log())
        self.logit_bias = nn.Parameter(torch.tensor(-5.0)) if objective.needs_bias else None
        self.objective = objective
        self.to(dtype)

    def encode(self, batch: Batch, share: float) -> Encoded:
        raw = self.image(batch.images.to(self.logit_scale.dtype) / 255 - 0.5)
        embeddings = {
            "images": F.normalize(raw, dim=1),
            "texts": F.normalize(self.text(self.words(batch.tokens)), dim=1),
        }
        own = {"image_norm": 0.1 * raw.square().sum() / max(len(batch.ids), 1) * share}
        return Encoded(embeddings, own, batch.targets)

    def loss(self, encoded: Encoded, exchange: Exchange) -> LossTerms:
        images, texts = encoded.embeddings["images"], encoded.embeddings["texts"]
        return self.objective(images, texts, encoded.targets, self.logit_scale.exp(), self.logit_bias, exchange)


def objective(kind: str) -> Objective:
    return (SoftmaxContrastive if kind == "softmax" else SigmoidContrastive)(Policy.graph("soft"), tile=3)


def batch_of(sizes: Sequence[int], rank: int = 0) -> Batch:
    """What a rank holds of a global batch with ``sizes[r]`` images on rank r; equal samples for all splits."""
    random = torch.Generator().manual_seed(1)
    targets = example(7, sizes).targets
    images = torch.randint(256, (sum(sizes), 3, SIDE, SIDE), generator=random, dtype=torch.uint8)
    tokens = torch.randint(WORDS, (len(targets.column_owner), 5), generator=random)
    top, bottom = targets.row_splits[rank : rank + 2]
    left, right = targets.column_splits[rank : rank + 2]
    ids = tuple(str(number) for number in range(top, bottom))
    return Batch(0, images[top:bottom], tokens[left:right], targets.column_owner[left:right] - top, targets, ids)


def gradients(task: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in task.named_parameters() if parameter.grad is not None}


def take(step: Step, task: SmallTask, batch: Batch, exchange: Exchange | None = None) -> LossTerms:
    """One step on one rank, as the training module does it."""
    return step.run(task, batch, exchange or LocalExchange(), lambda loss, last: loss.backward())


def on_rank(make: Callable[[], Step], kind: str, scale: float, sizes: Sequence[int], dropout: float = 0.0):
    """One step of a rank under DDP with its reducer armed as Lightning arms it: (loss, parts, gradients)."""
    exchange = ProcessGroupExchange()
    task = SmallTask(objective(kind), scale, dropout)
    wrapped = DistributedDataParallel(task)
    synced = []

    def backward(loss: Tensor, last: bool) -> None:
        synced.append(last)
        wrapped.require_backward_grad_sync = last
        if last:
            wrapped.reducer.prepare_for_backward([])
        (loss * exchange.size).backward()  # shares sum to the loss, and DDP averages

    torch.manual_seed(100 + exchange.rank)
    results = []
    for _ in range(2):  # twice: a reducer that was not finished complains in the second step
        task.zero_grad(set_to_none=True)
        torch.manual_seed(100 + exchange.rank)
        synced.clear()
        terms = make().run(task, batch_of(sizes, exchange.rank), exchange, backward)
        results.append((terms.loss, dict(terms.parts), gradients(task)))
    assert synced[:-1] == [False] * (len(synced) - 1)
    assert synced[-1]
    return results[-1]


def one_graph(task: SmallTask, batch: Batch, micro_batch: int) -> LossTerms:
    """The reference of Cached: the same micro-batches with gradient in one graph, random numbers in the same order."""
    parts = batch.micro(micro_batch)
    encoded = [task.encode(part, len(part.ids) / len(batch.ids)) for part in parts]
    embeddings = {name: torch.cat([part.embeddings[name] for part in encoded]) for name in ("images", "texts")}
    terms = task.loss(Encoded(embeddings, {}, batch.targets), LocalExchange())
    own = sum(part.terms["image_norm"] for part in encoded)
    (terms.loss + own).backward()
    return replace(terms, loss=(terms.loss + own).detach())


def plain() -> Step:
    return Plain()


def cached() -> Step:
    return Cached(3)


def clipped() -> Step:
    return Cached(3, clip_norm=0.01)
