"""What single precision, memory and learning promise."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from core.objectives.check import check_objective, evaluate, example
from core.objectives.exchange import LocalExchange
from core.objectives.normalisers import LogSum, add_tile, tile_gradient
from core.objectives.objective import Objective
from core.types import LossTerms, Policy, UserError
from tests.core.objectives import reference
from tests.core.objectives.cases import OBJECTIVES, POLICIES, build, differentiate, errors, slow
from tests.core.objectives.test_by_hand import targets
from tests.core.objectives.test_open_clip import pairs


@pytest.mark.parametrize("kind", ["softmax", "group_metric"])
def test_a_loss_that_is_almost_zero_keeps_its_digits_in_single_precision(kind: str) -> None:
    """Positives have a probability of 1 - 1e-10, which float32 rounds to 1."""
    turned = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    base = pairs(8, torch.float32)
    batch = replace(base, images=turned.float(), texts=(turned + 0.01 * turned.roll(1, 0)).float())
    double = replace(batch, images=batch.images.double(), texts=batch.texts.double())
    exact = evaluate(build(kind, "diagonal"), double, 25.0)
    assert 1e-11 < float(exact.loss) < 1e-9
    wanted = differentiate(slow(kind, "diagonal"), double, 25.0, None)
    assert float((exact.loss - wanted.loss).abs() / wanted.loss) < 1e-4  # the reference itself has lost digits here
    found = errors(evaluate(build(kind, "diagonal"), batch, 25.0), exact)
    assert max(found.values()) <= 1e-5, found


def test_columns_far_below_their_tile_keep_their_digits() -> None:
    """Column maxima 0, -60, -300 and a column without negatives: no one shift of the tile serves them in float32."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, generator=random) + torch.tensor([0.0, -60.0, -300.0, -torch.inf])
    row, column = LogSum(5, logits), LogSum(4, logits)
    for start in (0, 3):
        rows = slice(start, min(start + 3, 5))
        add_tile(row, rows, column, slice(0, 4), logits[rows].clone())
    wanted = torch.logsumexp(logits.double(), 0)
    assert torch.allclose(column.value().double(), wanted, rtol=1e-6)
    assert torch.allclose(row.value().double(), torch.logsumexp(logits.double(), 1), rtol=1e-6)
    peak = column.peak.masked_fill(column.total == 0, torch.inf)
    factors = 1 / column.total.masked_fill(column.total == 0, 1.0)
    found = tile_gradient(logits.clone(), (row.peak, 0 * row.total), (peak, factors))
    assert torch.allclose(found.double(), (logits.double() - wanted.nan_to_num(neginf=0.0)).exp(), rtol=1e-5)


@pytest.mark.parametrize("policy", [*POLICIES.values(), Policy(math.nan), Policy(0.5, own=0.0)])
def test_blocks_and_exceptions_of_targets_say_what_every_pair_is_worth(policy: Policy) -> None:
    to = example(6, (9,)).targets
    wanted = torch.tensor(reference.matrix(to, policy), dtype=torch.float64)
    rows, columns = slice(2, 7), slice(3, len(wanted[0]))
    like = torch.zeros((), dtype=torch.float64)
    block = to.block(rows, columns, policy, like)
    assert torch.equal(block.nan_to_num(nan=-1), wanted[rows, columns].nan_to_num(nan=-1))
    i, j, value = to.exceptions(rows, columns, policy, like)
    sparse = torch.zeros_like(block)
    sparse[i, j] = value
    assert torch.equal(sparse.nan_to_num(nan=-1), block.nan_to_num(nan=-1))
    assert (value != 0).all()


@pytest.mark.parametrize("kind", list(OBJECTIVES))
@pytest.mark.parametrize("policy", list(POLICIES))
def test_objectives_keep_their_contract(kind: str, policy: str) -> None:
    check_objective(build(kind, policy))


class _Forgets(Objective):
    """A mean over this rank instead of the global batch: the shares do not sum."""

    def forward(self, images, texts, targets, scale, bias, exchange) -> LossTerms:
        everything = exchange.gather(texts)
        return LossTerms(F.softplus(scale * images @ everything.T).mean())


class _Reads(Objective):
    """Pairs by position."""

    def forward(self, images, texts, targets, scale, bias, exchange) -> LossTerms:
        rows = min(len(images), len(texts))
        return LossTerms((scale * images[:rows] * texts[:rows]).sum())


class _Overflows(Objective):
    def forward(self, images, texts, targets, scale, bias, exchange) -> LossTerms:
        return LossTerms((scale * 100 * images @ exchange.gather(texts).T).exp().sum())


@pytest.mark.parametrize(
    ("objective", "broken"), [(_Forgets(), "do not sum"), (_Reads(), "order"), (_Overflows(), "not finite")]
)
def test_the_contract_names_the_clause_that_is_broken(objective: Objective, broken: str) -> None:
    with pytest.raises(UserError, match=broken):
        check_objective(objective)


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_nothing_of_the_size_of_the_similarity_matrix_is_kept(kind: str) -> None:
    """Saved for the backward pass at twice the batch: twice as much."""

    def kept(count: int) -> int:
        sizes: list[int] = []
        batch = pairs(count, torch.float32)
        images, texts = batch.images.requires_grad_(), batch.texts.requires_grad_()
        scale, bias = torch.tensor(14.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            build(kind, "excluded", tile=64)(images, texts, batch.targets, scale, bias, LocalExchange())
        assert sizes
        return sum(sizes)

    small, large = kept(200), kept(400)
    assert large <= 2 * small + 10
    assert large < 400 * 400


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_autocast_does_not_round_logits(kind: str) -> None:
    batch = example(5, (9,), dtype=torch.float32)
    plain = evaluate(build(kind, "soft"), batch, 100.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = evaluate(build(kind, "soft"), batch, 100.0)
    assert max(errors(cast, plain).values()) == 0


@pytest.mark.parametrize("policy", ["diagonal", "soft"])
@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_objectives_overfit_a_tiny_set(kind: str, policy: str) -> None:
    """Free embeddings of twelve pairs in six groups: every image ends nearest to a caption of its own group."""
    random = torch.Generator().manual_seed(0)
    group = torch.arange(12) // 2
    to = targets(group.tolist())
    images, texts = [torch.randn(12, 16, generator=random).requires_grad_() for _ in range(2)]
    objective = build(kind, policy)
    scale = torch.tensor(objective.initial_scale).log().requires_grad_()
    bias = torch.tensor(objective.initial_bias or 0.0, requires_grad=True)
    optimiser = torch.optim.Adam([images, texts, scale, bias], lr=0.05)
    values = []
    for _ in range(150):
        optimiser.zero_grad()
        i, t = F.normalize(images, dim=1), F.normalize(texts, dim=1)
        value = objective(i, t, to, scale.exp().clamp(max=100), bias, LocalExchange()).loss
        value.backward()
        optimiser.step()
        values.append(float(value.detach()))
    cosine = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    assert (group[cosine.argmax(1)] == group).all()
    assert (group[cosine.argmax(0)] == group).all()
    assert values[-1] < values[0] - 0.3
