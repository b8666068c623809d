"""Batches are a function of (seed, step), hold equally many bags within a budget of tiles, and split evenly."""

from __future__ import annotations

import numpy as np
import pytest

from core.mil.sampler import TokenBudgetSampler, balanced, token_groups
from core.types import UserError

LENGTHS = np.maximum(1, np.random.default_rng(0).lognormal(np.log(4000), 1.0, 203)).astype(np.int64)


def epoch_of(sampler: TokenBudgetSampler, epoch: int = 0) -> list[np.ndarray]:
    first = epoch * sampler.steps_per_epoch
    return [sampler.batch(step) for step in range(first, first + sampler.steps_per_epoch)]


@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_takes_every_bag_once(epoch: int) -> None:
    batches = epoch_of(TokenBudgetSampler(LENGTHS, 16, 10**9, seed=0), epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("n", [1, 7, 31, 33, 64, 100])
def test_batches_hold_equally_many_bags_but_for_one(n: int) -> None:
    sampler = TokenBudgetSampler(LENGTHS[:n], 32, 10**9, seed=0)
    sizes = {len(batch) for batch in epoch_of(sampler)}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == sampler.bags_per_batch <= 32
    assert sampler.steps_per_epoch == -(-n // 32)


@pytest.mark.parametrize("tokens", [60_000, 150_000, 400_000])
def test_no_batch_is_beyond_the_budget_and_no_larger_batch_would_be_within(tokens: int) -> None:
    sampler = TokenBudgetSampler(LENGTHS, 64, tokens, seed=1)
    budget = max(tokens, int(LENGTHS.max()))
    largest = max(int(LENGTHS[batch].sum()) for epoch in range(5) for batch in epoch_of(sampler, epoch))
    assert largest <= sampler.most_tokens <= budget
    fewer_steps = np.sort(LENGTHS)[::-1][:: sampler.steps_per_epoch - 1]
    assert fewer_steps.sum() > budget or -(-len(LENGTHS) // (sampler.steps_per_epoch - 1)) > 64


def test_a_bag_beyond_the_budget_is_neither_cut_nor_left_out() -> None:
    sampler = TokenBudgetSampler(np.array([100, 10, 10, 10]), 4, 30, seed=0)
    batches = epoch_of(sampler)
    assert sorted(np.concatenate(batches).tolist()) == [0, 1, 2, 3]
    assert [0] in [batch.tolist() for batch in batches]


def test_strata_make_batches_of_nearly_equal_cost() -> None:
    """Random batches of as many bags would vary four times as much."""
    sampler = TokenBudgetSampler(LENGTHS[:192], 32, 10**9, seed=0)
    ours = [LENGTHS[batch].sum() for epoch in range(20) for batch in epoch_of(sampler, epoch)]
    random = np.random.default_rng(0)
    free = [LENGTHS[random.permutation(192)[:32]].sum() for _ in range(120)]
    assert np.std(ours) < np.std(free) / 2


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    forward, backward = (TokenBudgetSampler(LENGTHS, 16, 10**9, seed=5) for _ in range(2))
    steps = range(3 * forward.steps_per_epoch)
    ahead = {step: forward.batch(step).tolist() for step in steps}
    assert {step: backward.batch(step).tolist() for step in reversed(steps)} == ahead
    other = TokenBudgetSampler(LENGTHS, 16, 10**9, seed=6)
    assert [other.batch(step).tolist() for step in steps] != list(ahead.values())


def test_epochs_differ_and_so_do_companions_of_bags_of_equal_length() -> None:
    sampler = TokenBudgetSampler(np.full(40, 10), 4, 10**9, seed=0)
    together = {frozenset(batch.tolist()) for epoch in range(50) for batch in epoch_of(sampler, epoch)}
    pairs = {pair for batch in together for pair in ((a, b) for a in batch for b in batch if a < b)}
    assert len(pairs) > 700  # of 780: the order of the file keeps nothing apart


@pytest.mark.parametrize(("bags", "tokens"), [(0, 5), (4, 0)])
def test_bounds_below_one_are_refused(bags: int, tokens: int) -> None:
    with pytest.raises(UserError, match="at least 1 of each"):
        TokenBudgetSampler(LENGTHS, bags, tokens, seed=0)


def test_no_bags_are_refused() -> None:
    with pytest.raises(UserError, match="no training bags"):
        TokenBudgetSampler(np.empty(0, np.int64), 4, 10, seed=0)


# --------------------------------------------------------------------------------------------------------------------
# Over ranks, and in groups


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_ranks_share_a_batch_without_loss(size: int) -> None:
    parts = balanced(LENGTHS[:32], size)
    assert sorted(np.concatenate(parts).tolist()) == list(range(32))
    for part in parts:
        assert (np.diff(LENGTHS[part]) <= 0).all()  # longest first: groups then waste least


def test_ranks_get_nearly_the_same_number_of_tiles() -> None:
    excess = []
    for seed in range(20):
        lengths = np.random.default_rng(seed).lognormal(np.log(4000), 1.0, 32).astype(np.int64)
        loads = [lengths[part].sum() for part in balanced(lengths, 4)]
        excess.append(max(loads) / np.mean(loads) - 1)
    assert np.median(excess) < 0.05


def test_every_rank_gets_a_bag_however_long_the_others_are() -> None:
    assert [part.tolist() for part in balanced(np.array([9, 1, 1]), 3)] == [[0], [1], [2]]
    assert [len(part) for part in balanced(np.ones(2, np.int64), 2)] == [1, 1]


def test_fewer_bags_than_ranks_are_refused() -> None:
    with pytest.raises(UserError, match="3 bags cannot be split over 4 ranks"):
        balanced(np.ones(3, np.int64), 4)


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [
        ([9, 3, 3, 3, 1], [(0, 1), (1, 3), (3, 5)]),
        ([6], [(0, 1)]),
        ([2, 2, 2], [(0, 3)]),
        ([7, 7], [(0, 1), (1, 2)]),
        ([1, 7, 1], [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_groups_stay_within_the_budget_unless_one_bag_is_beyond_it(
    lengths: list[int], groups: list[tuple[int, int]]
) -> None:
    assert token_groups(lengths, 6) == groups
