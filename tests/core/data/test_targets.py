"""Claims about targets: what the sets of a batch say of its pairs, on any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from core.data.samplers import shard
from core.data.targets import Relations, make_targets
from core.types import Relation

# concepts 0 is_a 1 is_a 2; 3 apart; the last set is empty
SETS = [frozenset({0}), frozenset({1}), frozenset({0, 3}), frozenset({3}), frozenset({2}), frozenset()]
ANCESTORS = {0: {1, 2}, 1: {2}, 2: set(), 3: set()}
SET_ID = np.array([0, 1, 2, 3, 4, 5, 0, 5, 2])
GROUP = np.array([10, 11, 12, 13, 14, 15, 10, 16, 17])


def relation(a: frozenset[int], b: frozenset[int]) -> Relation:
    if not a or not b:
        return Relation.UNRELATED
    if a == b:
        return Relation.EQUAL
    if a & b:
        return Relation.SHARED
    if any(x in ANCESTORS[y] for x in a for y in b):
        return Relation.ANCESTOR
    return Relation.DESCENDANT if any(y in ANCESTORS[x] for x in a for y in b) else Relation.UNRELATED


class SlowTable:
    """Relations by definition, from plain sets."""

    def codes(self, unique_set_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        dense = np.array([[relation(SETS[a], SETS[b]) for b in unique_set_ids] for a in unique_set_ids], np.int8)
        rows, columns = np.nonzero(dense)
        indptr = np.searchsorted(rows, np.arange(len(unique_set_ids) + 1))
        return indptr, columns, dense[rows, columns]


RELATIONS = Relations(GROUP, SET_ID, SlowTable())


def test_every_pair_of_a_batch_has_the_relation_its_rows_have() -> None:
    rows, counts = np.array([8, 0, 4, 7, 6, 2, 5]), np.array([1, 2, 1, 0, 3, 1, 1])
    targets = make_targets(rows, counts, RELATIONS, (0, len(rows)))
    owners = np.repeat(rows, counts)
    expected = np.array(
        [
            [
                Relation.OWN
                if row == owner
                else Relation.GROUP
                if GROUP[row] == GROUP[owner]
                else relation(SETS[SET_ID[row]], SETS[SET_ID[owner]])
                for owner in owners
            ]
            for row in rows
        ]
    )
    got = targets.relations(slice(0, len(rows)), slice(0, len(owners))).numpy()
    np.testing.assert_array_equal(got, expected)
    assert {int(code) for code in np.unique(got)} == set(range(7))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_agree_on_everything_and_own_consecutive_captions(size: int) -> None:
    rows, counts = np.array([8, 0, 4, 7, 6, 2, 5]), np.array([1, 2, 1, 1, 3, 1, 1])
    splits = shard(rows, 0, size)[0]
    targets = make_targets(rows, counts, RELATIONS, splits)
    assert targets.row_splits == splits
    assert targets.column_splits[-1] == counts.sum()
    for rank in range(size):
        mine = slice(targets.column_splits[rank], targets.column_splits[rank + 1])
        part = shard(rows, rank, size)[1]
        assert set(targets.column_owner[mine].tolist()) == set(part.tolist())


def test_without_a_graph_only_owners_and_groups_relate() -> None:
    rows = np.array([0, 6, 3])
    targets = make_targets(rows, np.ones(3, np.int64), Relations(GROUP, SET_ID), (0, 3))
    got = targets.relations(slice(0, 3), slice(0, 3)).tolist()
    own, group = int(Relation.OWN), int(Relation.GROUP)
    assert got == [[own, group, 0], [group, own, 0], [0, 0, own]]
