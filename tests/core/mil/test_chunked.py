"""Chunks with recomputation give what one piece gives: values, gradients of everything, dropout masks, autocast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from core.mil.chunked import map_in_chunks, pool_in_chunks
from core.mil.segments import segment_softmax


class Head(nn.Module):
    """Projection and gated attention of two columns."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(dropout))
        self.tanh, self.gate = nn.Linear(8, 5), nn.Linear(8, 5)
        self.score = nn.Linear(5, 2, bias=False)  # a softmax is blind to it: its gradient would be rounding alone
        self.called: list[int] = []

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        self.called.append(len(features))
        hidden = self.project(features)
        return 20 * self.score(self.tanh(hidden).tanh() * self.gate(hidden).sigmoid()), hidden


OFFSETS = torch.tensor([0, 1, 40, 41, 57, 100])
FEATURES = torch.randn(100, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).detach().norm() / theirs.detach().norm())


def run(head: Head, features: Tensor, chunk: int) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs, and gradients of features and parameters of a loss that uses pooled values and attention alike."""
    features = features.clone().requires_grad_()
    pooled, scores = pool_in_chunks(head, features, OFFSETS, chunk)
    attention = segment_softmax(scores, OFFSETS)
    loss = pooled.square().sum() + (attention * torch.arange(100.0)[:, None]).sum()
    gradients = torch.autograd.grad(loss, [features, *head.parameters()])
    return [pooled.detach(), scores.detach()], list(gradients)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("chunk", [1, 7, 41, 99])
def test_chunks_change_neither_values_nor_gradients(chunk: int, dtype: torch.dtype, tolerance: float) -> None:
    head, features = Head().to(dtype), FEATURES.to(dtype)
    for ours, whole in zip(run(head, features, chunk), run(head, features, 100), strict=True):
        for one, other in zip(ours, whole, strict=True):
            assert distance(one, other) < tolerance


def test_no_more_than_a_chunk_is_computed_at_once_and_once_more_in_the_backward() -> None:
    head = Head().double()
    pooled, _ = pool_in_chunks(head, FEATURES, OFFSETS, 30)
    assert head.called == [30, 30, 30, 10]
    pooled.sum().backward()
    assert sorted(head.called[4:]) == [10, 30, 30, 30]


def test_without_gradient_nothing_is_computed_twice() -> None:
    head = Head().double()
    with torch.no_grad():
        pooled, _ = pool_in_chunks(head, FEATURES, OFFSETS, 30)
    assert head.called == [30, 30, 30, 10]
    assert distance(pooled, pool_in_chunks(head, FEATURES, OFFSETS, 100)[0]) < 1e-12


def test_one_chunk_remembers_instead_of_computing_again() -> None:
    head = Head().double()
    pool_in_chunks(head, FEATURES, OFFSETS, 100)[0].sum().backward()
    assert head.called == [100]


def test_dropout_draws_the_same_masks_in_the_backward() -> None:
    """A loss that is linear in the last layer's weight is its gradient times the weight, for the same masks only."""
    head = Head(dropout=0.5).double()
    features = FEATURES.clone().requires_grad_()
    pooled, _ = pool_in_chunks(head, features, OFFSETS, 30)
    state = torch.get_rng_state()
    pooled[0].sum().backward()  # bag 0 has one tile: pooled is its hidden vector, ReLU and mask times a linear map
    assert torch.equal(torch.get_rng_state(), state)
    layer = head.project[0]
    assert isinstance(layer, nn.Linear)
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    linear = (layer.weight.grad * layer.weight).sum() + (layer.bias.grad * layer.bias).sum()
    torch.testing.assert_close(linear, pooled[0].sum())


def test_a_closure_gets_its_gradient_too() -> None:
    query = torch.randn(6, dtype=torch.float64, requires_grad=True)

    def gradient(chunk: int) -> Tensor:
        pooled, _ = pool_in_chunks(lambda x: ((x @ query)[:, None], x), FEATURES, OFFSETS, chunk)
        return torch.autograd.grad(pooled.square().sum(), query)[0]

    assert distance(gradient(9), gradient(100)) < 1e-12


def test_autocast_holds_in_the_recomputation() -> None:
    head = Head()
    with torch.autocast("cpu", torch.bfloat16):
        pooled, scores = pool_in_chunks(head, FEATURES.float(), OFFSETS, 30)
    assert (pooled.dtype, scores.dtype) == (torch.bfloat16, torch.float32)
    pooled.float().square().sum().backward()
    ours = [parameter.grad for parameter in head.parameters()]
    head.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        whole, _ = pool_in_chunks(head, FEATURES.float(), OFFSETS, 100)
    whole.float().square().sum().backward()
    assert distance(pooled, whole) < 2e-2
    for one, parameter in zip(ours, head.parameters(), strict=True):
        assert one is not None
        assert parameter.grad is not None
        assert float((one - parameter.grad).norm()) <= 5e-2 * float(parameter.grad.norm()) + 1e-3


def test_a_map_of_tiles_is_the_same_in_chunks() -> None:
    head = Head().double()

    def gradients(chunk: int) -> tuple[Tensor, ...]:
        scores = map_in_chunks(lambda x: head(x)[0], FEATURES, chunk)
        return torch.autograd.grad(scores.square().sum(), list(head.parameters()))

    for one, other in zip(gradients(33), gradients(100), strict=True):
        assert distance(one, other) < 1e-12
