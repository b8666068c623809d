"""Segment reductions equal a loop over bags, and their gradients are exact."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.mil.segments import (
    segment_argmax,
    segment_max,
    segment_mean,
    segment_pool,
    segment_softmax,
    segment_sum,
    segment_topk,
)

LENGTHS = (3, 1, 7, 2)
OFFSETS = torch.tensor([0, 3, 4, 11, 13])

REDUCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sum": (segment_sum, lambda bag: bag.sum(0)),
    "mean": (segment_mean, lambda bag: bag.mean(0)),
    "max": (segment_max, lambda bag: bag.amax(0)),
}


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("trailing", [(), (1,), (4,), (2, 3)])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_reduction_of_a_pack_is_the_reduction_of_its_bags(name: str, trailing: tuple[int, ...]) -> None:
    ours, alone = REDUCTIONS[name]
    values = draw(13, *trailing)
    torch.testing.assert_close(
        ours(values, OFFSETS), torch.stack([alone(bag) for bag in values.split(LENGTHS)]), rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("trailing", [(), (1,), (4,), (2, 3)])
def test_a_softmax_is_taken_bag_by_bag_and_column_by_column(trailing: tuple[int, ...]) -> None:
    values = draw(13, *trailing) * 50
    expected = torch.cat([bag.softmax(0) for bag in values.split(LENGTHS)])
    assert torch.equal(segment_softmax(values, OFFSETS), expected)


def test_a_softmax_takes_scores_whose_exponential_overflows() -> None:
    shares = segment_softmax(torch.tensor([1e4, 1e4, -1e4]), torch.tensor([0, 2, 3]))
    assert shares.tolist() == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("columns", [None, 1, 3])
def test_pooling_is_the_weighted_sum_of_each_bag(columns: int | None) -> None:
    weights = draw(13) if columns is None else draw(13, columns)
    values = draw(13, 5)
    pooled = segment_pool(weights, values, OFFSETS)
    parts = zip(weights.split(LENGTHS), values.split(LENGTHS), strict=True)
    torch.testing.assert_close(
        pooled, torch.stack([torch.tensordot(w, v, ([0], [0])) for w, v in parts]), rtol=1e-14, atol=1e-14
    )


def test_a_pack_equals_its_bags_one_by_one_to_the_last_bit() -> None:
    lengths = (700, 1, 4097)
    offsets, one = torch.tensor([0, 700, 701, 4798]), torch.tensor
    scores, values = draw(4798, 2, dtype=torch.float32), draw(4798, 33, dtype=torch.float32)
    together = segment_pool(segment_softmax(scores, offsets), values, offsets)
    for bag, (s, v) in enumerate(zip(scores.split(lengths), values.split(lengths), strict=True)):
        whole = one([0, len(s)])
        assert torch.equal(together[bag], segment_pool(segment_softmax(s, whole), v, whole)[0])


@pytest.mark.parametrize("function", [segment_sum, segment_mean, segment_max, segment_softmax])
@pytest.mark.parametrize("trailing", [(), (3,)])
def test_gradients_are_exact(function: Callable[[Tensor, Tensor], Tensor], trailing: tuple[int, ...]) -> None:
    values = draw(13, *trailing).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: function(v, OFFSETS), values)


@pytest.mark.parametrize(("weights_learn", "values_learn"), [(True, True), (True, False), (False, True)])
def test_gradients_of_pooling_are_exact(weights_learn: bool, values_learn: bool) -> None:
    weights, values = draw(13, 2).requires_grad_(weights_learn), draw(13, 3).requires_grad_(values_learn)
    assert torch.autograd.gradcheck(lambda w, v: segment_pool(w, v, OFFSETS), (weights, values))


def test_the_gradient_of_a_tied_maximum_goes_to_one_tile() -> None:
    values = torch.tensor([2.0, 2.0, 1.0], requires_grad=True)
    segment_max(values, torch.tensor([0, 2, 3])).sum().backward()
    assert values.grad is not None
    assert sorted(values.grad.tolist()[:2]) == [0.0, 1.0]


def test_the_largest_tile_is_a_row_of_the_pack() -> None:
    values = torch.tensor([[1.0, 9.0], [5.0, 0.0], [0.0, 3.0]])
    assert segment_argmax(values, torch.tensor([0, 2, 3])).tolist() == [[1, 0], [2, 2]]


@pytest.mark.parametrize(("largest", "expected"), [(True, [1, 2, 3, 5, 4]), (False, [0, 1, 3, 4, 5])])
def test_top_k_is_ragged_sorted_and_takes_the_first_of_equals(largest: bool, expected: list[int]) -> None:
    values = torch.tensor([1.0, 7.0, 7.0, 4.0, 2.0, 8.0])
    rows, offsets = segment_topk(values, torch.tensor([0, 3, 4, 6]), 2, largest)
    assert rows.tolist() == expected
    assert offsets.tolist() == [0, 2, 3, 5]


def test_top_k_takes_another_k_for_every_bag_and_also_none() -> None:
    rows, offsets = segment_topk(torch.arange(6.0), torch.tensor([0, 3, 4, 6]), torch.tensor([3, 0, 1]))
    assert rows.tolist() == [2, 1, 0, 5]
    assert offsets.tolist() == [0, 3, 3, 4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_pooling_takes_values_of_autocast(dtype: torch.dtype) -> None:
    values = draw(13, 4, dtype=dtype).requires_grad_()
    pooled = segment_pool(segment_softmax(draw(13, dtype=torch.float32), OFFSETS), values, OFFSETS)
    pooled.sum().backward()
    assert pooled.dtype == dtype
    assert values.grad is not None
    assert values.grad.dtype == dtype
