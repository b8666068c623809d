"""Claims about samplers: pure, without repetition, the same for any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.samplers import GroupSampler, Sampler, UniformSampler, shard
from core.types import UserError

RAGGED = np.repeat(np.arange(11), [1, 2, 3, 5, 8, 13, 1, 4, 4, 7, 20])


def uniform(seed: int = 3) -> Sampler:
    return UniformSampler(RAGGED, 16, seed)


def grouped(seed: int = 3) -> Sampler:
    return GroupSampler(RAGGED, 4, 3, seed)


BOTH = pytest.mark.parametrize("make", [uniform, grouped])


@BOTH
def test_a_batch_depends_on_seed_and_step_alone(make) -> None:
    asked_once, asked_often = make(), make()
    for step in (40, 0, 7, 7, 12, 3):
        asked_often.batch(step)
    np.testing.assert_array_equal(asked_once.batch(7), asked_often.batch(7))
    assert not np.array_equal(make(4).batch(7), make(3).batch(7))


@BOTH
def test_no_sample_comes_twice_in_a_batch(make) -> None:
    sampler = make()
    for step in range(50):
        batch = sampler.batch(step)
        assert batch.dtype == np.int64
        assert len(np.unique(batch)) == len(batch)
        assert batch.min() >= 0
        assert batch.max() < len(RAGGED)


@BOTH
@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_divide_the_global_batch_without_overlap(make, size: int) -> None:
    for step in range(20):
        batch = make().batch(step)
        parts = [shard(batch, rank, size) for rank in range(size)]
        np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), batch)
        assert len({splits for splits, _ in parts}) == 1
        lengths = [len(part) for _, part in parts]
        assert max(lengths) - min(lengths) <= 1
        assert np.diff(parts[0][0]).tolist() == lengths


def test_uniform_batches_are_equal_and_an_epoch_repeats_nothing() -> None:
    sampler = uniform()
    batches = [sampler.batch(step) for step in range(sampler.steps_per_epoch)]
    assert {len(batch) for batch in batches} == {16}
    drawn = np.concatenate(batches)
    assert len(np.unique(drawn)) == len(drawn)
    following = np.concatenate([sampler.batch(step + sampler.steps_per_epoch) for step in range(len(batches))])
    assert not np.array_equal(drawn, following)


def test_an_epoch_is_one_pass_over_the_groups_in_new_order() -> None:
    sampler = grouped()
    epochs = []
    for epoch in range(4):
        steps = range(epoch * sampler.steps_per_epoch, (epoch + 1) * sampler.steps_per_epoch)
        per_step = [list(dict.fromkeys(RAGGED[sampler.batch(step)])) for step in steps]
        assert {len(groups) for groups in per_step} <= {3, 4}
        order = [group for groups in per_step for group in groups]
        assert sorted(order) == list(range(11))
        epochs.append(order)
    assert len({tuple(order) for order in epochs}) == 4


def test_small_groups_stay_ragged_and_large_ones_give_k() -> None:
    sampler = grouped()
    for step in range(sampler.steps_per_epoch):
        groups, counts = np.unique(RAGGED[sampler.batch(step)], return_counts=True)
        for group, count in zip(groups, counts, strict=True):
            assert count == min(3, int((group == RAGGED).sum()))


def test_every_member_of_a_group_has_its_turn() -> None:
    sampler = grouped()
    seen = np.concatenate([sampler.batch(step) for step in range(sampler.steps_per_epoch * 6)])
    # the group of 20 gives 3 of its members in each of 6 epochs, none a second time
    large = seen[RAGGED[seen] == 10]
    assert len(large) == 18
    assert len(np.unique(large)) == 18


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_any_groups_make_batches_within_bounds(groups: list[int], p: int, k: int, step: int) -> None:
    sampler = GroupSampler(np.array(groups), p, k, 1)
    batch = sampler.batch(step)
    assert 1 <= len(batch) <= p * k
    assert len(np.unique(batch)) == len(batch)


def test_wishes_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(UserError, match="expected 1 to 5"):
        UniformSampler(np.zeros(5), 6, 0)
    with pytest.raises(UserError, match="at least 1"):
        GroupSampler(np.zeros(5), 0, 1, 0)
    with pytest.raises(UserError, match="no training samples"):
        GroupSampler(np.zeros(0), 1, 1, 0)
    with pytest.raises(UserError, match="3 samples cannot be split over 4"):
        shard(np.arange(3), 0, 4)
