"""Prototype learning: Sinkhorn's sums, each term worked by hand, and prototypes that find what k-means missed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.mil.aggregators.prototypes import Prototypes
from core.mil.bags import PackedBags
from core.mil.data import BagBatch
from core.mil.prototype_learning import PrototypeLearning, SwappedAssignment, prototype_terms, sinkhorn
from core.training.ema import Ema


def test_sinkhorn_rows_sum_to_one_and_columns_become_equal() -> None:
    cosines = F.normalize(torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1)
    few, many = sinkhorn(cosines), sinkhorn(cosines, rounds=500)
    for codes in (few, many):
        torch.testing.assert_close(codes.sum(dim=1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(many.sum(dim=0), torch.full((5,), 8.0, dtype=torch.float64), rtol=1e-3, atol=0)
    plain = (cosines / 0.05).softmax(dim=1).sum(dim=0)
    assert (few.sum(dim=0) - 8).abs().max() < (plain - 8).abs().max()


def test_sinkhorn_is_that_of_swav() -> None:
    """Its published loop, on sums instead of logarithms."""
    cosines = F.normalize(torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=1)
    q = (cosines / 0.05).exp().T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(dim=1, keepdim=True) * 3
        q /= q.sum(dim=0, keepdim=True) * 7
    torch.testing.assert_close(sinkhorn(cosines), (q * 7).T)


def test_terms_are_those_worked_by_hand() -> None:
    """One tile, two prototypes; cosines (0.1, 0) in the first view and (0, 0.1) in the second: logits (1, 0), (0, 1).

    With p = e / (1 + e): the codes (1, 0) and (0, 1) are each predicted by the other view, with probability 1 - p. Each
    view is 0.1 from its prototype in cosine and gives it p. The mean of (p, 1 - p) and (1 - p, p) is even.
    """
    p = math.e / (1 + math.e)
    student = [torch.tensor([[0.1, 0.0]]), torch.tensor([[0.0, 0.1]])]
    terms = prototype_terms(student, [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])])
    wanted = {"swav": -math.log(1 - p), "ipd": 2 - 0.2, "ipc": 0.1 * -math.log(p), "memax": 0.0}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(wanted, abs=1e-6)
    one_sided = prototype_terms([student[0], student[0]], [torch.tensor([[1.0, 0.0]])] * 2)
    assert float(one_sided["swav"]) == pytest.approx(-math.log(p))
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert float(one_sided["memax"]) == pytest.approx(math.log(2) - entropy)


def test_codes_are_the_teachers_and_carry_no_gradient() -> None:
    """A teacher far away changes the loss, and the student alone has a gradient."""
    start = torch.eye(4)[:3]
    tiles = F.normalize(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    bag = PackedBags(tiles, torch.zeros(20, 2), torch.tensor([0, 20]), ("tiles",))
    batch, losses = BagBatch(0, bag, {}, ("tiles",)), []
    for average in (start, start.roll(1, dims=0)):
        teacher = Ema(0.9, 10)
        task = SwappedAssignment(start, teacher, (0.0, 0.0))
        teacher.average = {"prototypes": average.clone().requires_grad_()}
        terms = task.encode(batch, 1.0).terms
        sum(terms.values()).backward()
        assert task.prototypes.grad is not None
        assert teacher.average["prototypes"].grad is None
        losses.append(float(terms["swav"].detach()))
    assert losses[1] > losses[0] + 1


def planted(seed: int = 0) -> tuple[Tensor, Tensor]:
    """600 tiles around six orthogonal directions in eight dimensions."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.eye(8)[:6]
    return centres, 5 * (centres.repeat(100, 1) + 0.1 * torch.randn(600, 8, generator=random))


def test_prototypes_leave_a_bad_start_for_the_planted_directions() -> None:
    """From random directions near each other: every planted direction gets a prototype, the tiles are shared out."""
    centres, tiles = planted()
    start = F.normalize(torch.ones(6, 8) + 0.3 * torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    learning = PrototypeLearning(steps=150, lr=0.03, momentum=0.9)
    found = learning(tiles, start, seed=0)
    assert (centres @ found.T).amax(dim=1).min() > 0.95
    used = (F.normalize(tiles, dim=1) @ found.T).argmax(dim=1).bincount(minlength=6) / 600
    entropy = float(-torch.xlogy(used, used).sum()) / math.log(6)
    assert entropy > 0.9


def test_prototypes_are_a_function_of_tiles_start_and_seed() -> None:
    _, tiles = planted()
    one, same, other = (PrototypeLearning(steps=3)(tiles, torch.eye(8)[:4], seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_an_aggregator_learns_its_prototypes_on() -> None:
    centres, tiles = planted()
    plain, learned = Prototypes(8, 6, 4), Prototypes(8, 6, 4, learning=PrototypeLearning(steps=20))
    for made in (plain, learned):
        made.prepare(tiles, seed=0)
    assert not torch.equal(plain.tokens.prototypes, learned.tokens.prototypes)
    assert (centres @ learned.tokens.prototypes.T).amax(dim=1).min() > 0.95
