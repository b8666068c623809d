"""The graph: immutable, hashed by content, with a closure that equals walking up."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from core.knowledge.compile import compile_graph
from core.knowledge.load import check_graph
from core.knowledge.terms import Term
from core.types import UserError
from tests.core.knowledge.graphs import make, random_graph, slow_ancestors

DIAMOND = {"top": (), "left": ("top",), "right": ("top",), "both": ("left", "right"), "deep": ("both",), "alone": ()}


@pytest.mark.parametrize("seed", range(5))
def test_the_closure_equals_walking_up(seed: int) -> None:
    graph = random_graph(seed, 60)
    for concept in range(len(graph)):
        above = slow_ancestors(graph, concept)
        assert set(graph.ancestors_of(concept).tolist()) == above
        assert all(graph.is_ancestor(a, concept) == (a in above) for a in range(len(graph)))
        assert all(concept in graph.parents_of(child) for child in graph.children_of(concept))
    assert sum(len(graph.children_of(i)) for i in range(len(graph))) == graph.counts()["is_a_edges"]


def test_depths_count_edges_from_a_root() -> None:
    graph = make({**DIAMOND, "both": ("left", "right", "top")})
    both, deep = graph.index("both"), graph.index("deep")
    assert graph.depth() == 3
    assert graph.depths()[both] == 2
    assert graph.depths(longest=False)[[both, deep]].tolist() == [1, 2]


def test_distance_goes_by_the_nearest_common_ancestor() -> None:
    graph = make(DIAMOND)

    def distance(a: str, b: str) -> int:
        return graph.tree_distance(graph.index(a), graph.index(b))

    assert distance("deep", "deep") == 0
    assert distance("left", "right") == 2
    assert distance("deep", "left") == distance("left", "deep") == 2
    assert distance("alone", "top") == 2  # two trees meet above their roots
    assert distance("deep", "alone") == 5


def test_chains_are_paths_to_a_root_and_take_every_way() -> None:
    graph = make(DIAMOND)
    rng = np.random.default_rng(0)
    chains = {tuple(graph.name(i) for i in graph.chain(graph.index("deep"), rng)) for _ in range(50)}
    assert chains == {("deep", "both", "left", "top"), ("deep", "both", "right", "top")}


def test_a_cycle_is_refused_and_every_step_of_it_named() -> None:
    above = {"A:1": ("A:2",), "A:2": ("A:3",), "A:3": ("A:1",), "A:0": ("A:1",), "A:9": ()}
    with pytest.raises(UserError, match="cycle") as error:
        make(above, **{"A:1": "one", "A:2": "two", "A:3": "three"})
    assert all(text in str(error.value) for text in ("A:1 (one)", "A:2 (two)", "A:3 (three)"))
    assert "A:0" not in str(error.value)  # hangs below the cycle, is no part of it
    with pytest.raises(UserError, match=r"A:1 \(A:1\) -> A:1"):
        make({"A:1": ("A:1",)})


def test_findings_name_what_is_wrong() -> None:
    terms = [
        Term("A:1", "twice", parents=("B:7", "A:5", "A:6"), alt_ids=("A:2", "A:8")),
        Term("A:2", "twice"),
        Term("A:3", "three", alt_ids=("A:8",)),
        Term("A:5", "old", obsolete=True, replaced_by=("A:2", "A:3")),
        Term("A:6"),
    ]
    findings = {(finding.kind, finding.id, finding.detail) for finding in check_graph(compile_graph([terms]))}
    assert findings == {
        ("dangling parent", "A:1", "parent B:7 is not in the graph"),
        ("dangling parent", "A:1", "parent A:5 is obsolete"),
        ("dangling parent", "A:1", "parent A:6 has no name"),
        ("duplicate name", "A:1", "also the name of A:2"),
        ("alternative id", "A:2", "is also an alternative id of A:1"),
        ("alternative id", "A:8", "stands for several concepts; A:1 is taken, not A:3"),
        ("unnamed term", "A:6", "has no name and is left out"),
        ("obsolete term", "A:5", "replaced by A:2, A:3"),
    }


def test_a_graph_cannot_be_changed() -> None:
    graph = make(DIAMOND)
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.names = ()  # type: ignore[misc]
    for array in (graph.parents.indptr, graph.parents.indices, graph.ancestors.indptr, graph.ancestors.indices):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 7
    with pytest.raises(ValueError, match="read-only"):
        graph.ancestors_of(graph.index("deep"))[0] = 7
    with pytest.raises(ValueError, match="read-only"):
        graph.children_of(graph.index("top"))[0] = 7


def test_the_hash_says_what_is_in_it_and_nothing_else() -> None:
    graph = make(DIAMOND)
    assert make(dict(reversed(DIAMOND.items()))).hash == graph.hash  # order in the file
    assert make(DIAMOND) == graph
    changed = [make({**DIAMOND, "alone": ("top",)}), make(DIAMOND, top="summit"), graph.shuffled(0)]
    assert len({graph.hash, *(other.hash for other in changed)}) == 4


def test_the_hash_is_the_same_in_another_process() -> None:
    code = "from tests.core.knowledge.graphs import random_graph; print(random_graph(3, 40).hash)"
    environment = {"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == random_graph(3, 40).hash


@pytest.mark.parametrize("seed", range(3))
def test_shuffling_keeps_the_shape_and_moves_the_relations_alone(seed: int) -> None:
    graph = random_graph(11, 50)
    other = graph.shuffled(seed)
    for part in ("ids", "names", "synonyms", "definitions", "alternatives"):
        assert getattr(other, part) == getattr(graph, part)

    def shape(which: object) -> list[tuple[int, int, int]]:
        lengths = (graph if which is graph else other).ancestors.lengths.tolist()
        one = graph if which is graph else other
        return sorted((lengths[i], len(one.parents_of(i)), len(one.children_of(i))) for i in range(len(one)))

    assert shape(other) == shape(graph)
    assert other != graph
    assert other.parents.indices.tolist() != graph.parents.indices.tolist()
    for concept in range(len(other)):  # the moved closure is the closure of the moved parents
        assert set(other.ancestors_of(concept).tolist()) == slow_ancestors(other, concept)
    assert graph.shuffled(seed) == other
    assert graph.shuffled(seed + 1) != other
