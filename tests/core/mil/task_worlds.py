"""Small bags with labels of every kind that depend on planted tiles, tasks over them, and one step of a rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core.mil.aggregators.clam import CLAM
from core.mil.aggregators.gated_abmil import GatedABMIL
from core.mil.bags import PackedBags
from core.mil.data import BagBatch
from core.mil.tasks.classification import BagClassification
from core.mil.tasks.cox import BagCox
from core.mil.tasks.discrete_hazard import BagDiscreteHazard
from core.mil.tasks.multilabel import BagMultilabel
from core.mil.tasks.ordinal import BagOrdinal
from core.mil.tasks.regression import BagRegression
from core.mil.tasks.task import BagTask
from core.objectives.exchange import Exchange, LocalExchange, ProcessGroupExchange
from core.training.step import Step
from core.types import LossTerms

WIDTH = 6
MAKERS: dict[str, Callable[..., BagTask]] = {
    "classification": lambda aggregator: BagClassification(aggregator, 3, "grade"),
    "ordinal": lambda aggregator: BagOrdinal(aggregator, 3, "grade"),
    "multilabel": lambda aggregator: BagMultilabel(aggregator, ["a", "b"]),
    "regression": lambda aggregator: BagRegression(aggregator, "burden"),
    "cox": lambda aggregator: BagCox(aggregator),
    "breslow": lambda aggregator: BagCox(aggregator, "breslow"),
    "discrete_hazard": lambda aggregator: BagDiscreteHazard(aggregator, 3),
}
SEPARATE = ("classification", "ordinal", "multilabel", "regression", "discrete_hazard")


def world(bags: int = 12, seed: int = 0, dtype: torch.dtype = torch.float64) -> BagBatch:
    """Bags of 1 to 9 tiles; the share of planted tiles, which feature 0 shows, decides every label.

    Times are whole numbers, so that events tie with events and with censoring.
    """
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 10, bags)
    share = np.arange(bags) % 4 / 3
    owner = np.repeat(np.arange(bags), lengths)
    planted = random.permuted(np.arange(len(owner))) % 3 < 3 * share[owner]
    features = random.normal(size=(len(owner), WIDTH)) * 0.3
    features[planted, 0] += 2
    burden = np.bincount(owner, planted, bags) / lengths
    time = np.ceil(8 * np.exp(-burden - 0.2 * random.random(bags)))
    labels = {
        "grade": torch.from_numpy(np.digitize(burden, [0.3, 0.7])),
        "label.a": torch.from_numpy((burden > 0.5).astype(np.int64)),
        "label.b": torch.from_numpy((burden < 0.3).astype(np.int64)),
        "burden": torch.from_numpy(20 + 5 * burden),
        "time": torch.from_numpy(time),
        "event": torch.from_numpy((np.arange(bags) % 5 > 0).astype(np.float64)),
    }
    ids = tuple(f"bag{bag}" for bag in range(bags))
    offsets = torch.from_numpy(np.concatenate([[0], lengths.cumsum()]))
    pack = PackedBags(torch.from_numpy(features).to(dtype), torch.zeros(len(owner), 2), offsets, ids)
    return BagBatch(0, pack, labels, ids)


def columns(batch: BagBatch) -> dict[str, np.ndarray]:
    """Labels as the training split has them."""
    return {name: values.numpy() for name, values in batch.labels.items()}


def task(kind: str, batch: BagBatch, clam: bool = False, dropout: float = 0.0, seed: int = 0) -> BagTask:
    """A prepared task of a kind in the dtype of the batch, the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classes = 3 if kind in ("classification", "ordinal") else None
        aggregator = CLAM(WIDTH, classes, hidden=8, attention=4, k=2, dropout=dropout) if clam else GatedABMIL(
            WIDTH, (8,), 4, dropout
        )  # fmt: skip
        made = MAKERS[kind](aggregator)
    made.prepare(columns(batch), batch.ids, batch.ids)
    return made.to(batch.bags.features.dtype)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}


def take(step: Step, made: BagTask, batch: BagBatch, exchange: Exchange | None = None) -> LossTerms:
    """One step on one rank, as the training module does it."""
    return step.run(made, batch, exchange or LocalExchange(), lambda loss, last: loss.backward())


def cut(batch: BagBatch, sizes: Sequence[int], rank: int) -> BagBatch:
    """Bags of a rank."""
    first = sum(sizes[:rank])
    return batch.part(first, first + sizes[rank])


def on_rank(step: Callable[[], Step], kind: str, sizes: Sequence[int], events: Sequence[float] | None):
    """One step of a rank under DDP, its reducer armed as Lightning arms it: (loss, parts, gradients)."""
    exchange = ProcessGroupExchange()
    batch = with_events(world(sum(sizes)), events)
    made = task(kind, world(sum(sizes)))
    wrapped = DistributedDataParallel(made)

    def backward(loss: Tensor, last: bool) -> None:
        wrapped.require_backward_grad_sync = last
        if last:
            wrapped.reducer.prepare_for_backward([])
        (loss * exchange.size).backward()  # shares sum to the loss, and DDP averages

    for _ in range(2):  # twice: a reducer that was not finished complains in the second step
        made.zero_grad(set_to_none=True)
        terms = step().run(made, cut(batch, sizes, exchange.rank), exchange, backward)
    return terms.loss, dict(terms.parts), gradients(made)


def with_events(batch: BagBatch, events: Sequence[float] | None) -> BagBatch:
    if events is None:
        return batch
    labels = {**batch.labels, "event": torch.tensor(events, dtype=torch.float64)}
    return BagBatch(batch.step, batch.bags, labels, batch.ids)


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor], bound: float = 1e-10) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        error = float((found[name] - value).norm() / value.norm().clamp(min=1e-30))
        assert error <= bound, f"{name}: {error:.1e} of its norm"


def loop_hazard(scores: np.ndarray, bins: np.ndarray, event: np.ndarray) -> list[float]:
    """Probability of what was seen of each patient, from hazards, by the words of the definition."""
    losses = []
    for row, place, happened in zip(1 / (1 + np.exp(-scores)), bins, event, strict=True):
        before = math.prod(1 - row[k] for k in range(place))
        losses.append(-math.log(before * (row[place] if happened else 1 - row[place])))
    return losses
