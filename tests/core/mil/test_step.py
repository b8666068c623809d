"""Groups of bags give the gradient of the whole batch, over groups and ranks, and a task learns by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from core.mil.aggregators.gated_abmil import GatedABMIL
from core.mil.bags import Bag, PackedBags
from core.mil.data import BagBatch, BagDataModule
from core.mil.sampler import balanced
from core.mil.step import TokenGroups
from core.mil.tasks.classification import BagClassification
from core.mil.tasks.cox import BagCox
from core.objectives.exchange import Exchange, LocalExchange, ProcessGroupExchange
from core.training.fit import TrainerOptions, fit
from core.training.optimiser import AdamW, CosineWarmup
from core.training.step import Plain, Step
from core.types import UserError
from tests.core.mil.test_data import SAMPLER, manifest
from tests.pool import Pool

LENGTHS = np.array([9, 1, 30, 4, 4, 17, 2])


def make_batch() -> BagBatch:
    """Seven bags of four numbers a tile, in float64."""
    features = torch.randn(int(LENGTHS.sum()), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ids = tuple(f"b{number}" for number in range(len(LENGTHS)))
    bags = PackedBags(features, torch.zeros(len(features), 2), torch.tensor([0, *LENGTHS]).cumsum(0), ids)
    labels = {"label": torch.arange(len(ids)) % 2, "time": torch.arange(7.0), "event": torch.ones(7)}
    return BagBatch(0, bags, labels, ids)


def pick(batch: BagBatch, bags: np.ndarray) -> BagBatch:
    """Some bags of a batch, in the given order."""
    parts = [batch.part(int(bag), int(bag) + 1) for bag in bags]
    return BagBatch(
        batch.step,
        PackedBags(
            torch.cat([part.bags.features for part in parts]),
            torch.cat([part.bags.coordinates for part in parts]),
            torch.tensor([0, *(len(part.bags.features) for part in parts)]).cumsum(0),
            tuple(part.ids[0] for part in parts),
        ),
        {name: torch.cat([part.labels[name] for part in parts]) for name in batch.labels},
        tuple(part.ids[0] for part in parts),
    )


def make_task() -> BagClassification:
    torch.manual_seed(0)
    return BagClassification(GatedABMIL(4, hidden=(6,), attention=5), classes=2).double()


def gradient(step: Step, batch: BagBatch, exchange: Exchange) -> tuple[Tensor, Tensor, list[bool]]:
    """Loss, gradient of all parameters, and with which calls of backward ranks would be synchronised."""
    task, calls = make_task(), []

    def backward(loss: Tensor, last: bool) -> None:
        calls.append(last)
        loss.backward()  # type: ignore[no-untyped-call]

    terms = step.run(task, batch, exchange, backward)  # type: ignore[arg-type]
    assert terms.parts["cross_entropy"] == terms.loss
    return terms.loss, torch.cat([p.grad.flatten() for p in task.parameters() if p.grad is not None]), calls


@pytest.mark.parametrize(("tokens", "groups"), [(1, 7), (10, 5), (45, 2), (1000, 1)])
def test_groups_give_the_gradient_of_the_whole_batch(tokens: int, groups: int) -> None:
    loss, ours, calls = gradient(TokenGroups(tokens), make_batch(), LocalExchange())
    whole_loss, whole, _ = gradient(Plain(), make_batch(), LocalExchange())
    torch.testing.assert_close(loss, whole_loss, rtol=1e-12, atol=0)
    assert float((ours - whole).norm() / whole.norm()) < 1e-12
    assert calls == [False] * (groups - 1) + [True]


def share_of_rank(size: int) -> tuple[Tensor, Tensor]:
    exchange = ProcessGroupExchange()
    mine = balanced(LENGTHS, size)[exchange.rank]
    loss, share, _ = gradient(TokenGroups(12), pick(make_batch(), mine), exchange)
    return loss, share


def test_shares_of_ranks_with_different_numbers_of_bags_sum_to_the_whole(ranks: Pool) -> None:
    assert {len(part) for part in balanced(LENGTHS, 2)} != {len(LENGTHS) / 2}
    shares = ranks.run(share_of_rank, 2, 2)
    loss, whole, _ = gradient(Plain(), make_batch(), LocalExchange())
    torch.testing.assert_close(sum(share[0] for share in shares), loss, rtol=1e-12, atol=0)
    assert float((sum(share[1] for share in shares) - whole).norm() / whole.norm()) < 1e-12


def test_a_loss_that_compares_bags_is_refused() -> None:
    task = BagCox(GatedABMIL(4)).double()
    with pytest.raises(UserError, match="BagCox compares bags"):
        TokenGroups(12).run(task, make_batch(), LocalExchange(), lambda loss, last: None)  # type: ignore[arg-type]


def test_a_group_without_room_is_refused() -> None:
    with pytest.raises(UserError, match="tokens is 0"):
        TokenGroups(0)


def planted(name: str) -> Bag:
    """Noise of 3 to 40 tiles; slides of patients with an odd number hold one tile that is shifted."""
    number = int(name[1:])
    random = np.random.default_rng(number)
    features = random.normal(size=(int(random.integers(3, 40)), 8)).astype(np.float32)
    features[0] += 4 * (number // 2 % 2)
    return Bag(name, features, np.zeros((len(features), 2), np.float32), 128.0, "um", "vit@1")


def test_a_task_learns_patients_of_several_slides_through_the_trainer(tmp_path: Path) -> None:
    table = manifest(slides=48, splits=[("train", "train", "test")[number // 2 % 3] for number in range(48)])
    labels = {"label": np.array([int(group[1:]) % 2 for group in table.frame["group"]])}
    data = BagDataModule(table, planted, SAMPLER, labels=labels, workers=1)
    data.prepare(progress=False)
    torch.manual_seed(0)
    task = BagClassification(GatedABMIL(8, hidden=(16,), attention=8), classes=2)
    fit(
        task,
        data,  # type: ignore[arg-type]
        tmp_path,
        step=TokenGroups(64, clip_norm=1.0),
        optimiser=AdamW(0.01),
        schedule=CosineWarmup(60, 2),
        seed=0,
        trainer=TrainerOptions(accelerator="cpu", precision="32-true", log_every=30),
    )
    found = np.concatenate([task.predict(pack).argmax(axis=1) for pack in data.eval_bags("test")])
    assert (found == data.labels("test")["label"]).mean() >= 7 / 8
