"""Ranking of a vocabulary: ranks, expectations and controls worked by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from core.evaluation.bag_texts import TextsOfBags, vocabulary_of
from core.evaluation.cohort import Cohort
from core.evaluation.ranking import expected, ranking
from core.knowledge.compile import compile_graph
from core.knowledge.terms import Term
from core.mil.texts import BagTexts, Entry
from core.types import UserError

NAMES = ["a", "b", "c", "d"]


def cohort(n: int) -> Cohort:
    return Cohort([f"i{k}" for k in range(n)], [f"p{k}" for k in range(n)], "patient")


def test_ranks_and_controls_are_those_worked_by_hand() -> None:
    """Item 0 holds b and c: a is before both, rank 2. Item 1 holds a, which ties with d: rank 2 against the model.

    Training has a twice, b and c once, d never. In that order item 1's a is first. Of item 0 the best are b and c, in
    either order behind a: place 2. Item 2 holds nothing.
    """
    scores = [[0.9, 0.5, 0.1, 0.2], [0.7, 0.1, 0.2, 0.7], [1.0, 0.0, 0.0, 0.0]]
    held = [frozenset({1, 2}), frozenset({0}), frozenset[int]()]
    found = ranking(scores, held, NAMES, [2, 1, 1, 0], cohort(3), "graph")
    assert found.items["rank"].tolist() == [2, 2]
    assert found.items["caption"].tolist() == ["b; c", "a"]
    assert found.items["retrieved"].tolist()[0] == ["a", "b", "d", "c"]
    assert found.details["left_out"] == 1
    figures = {figure.name: figure for figure in found.figures}
    assert {name: figure.value for name, figure in figures.items()} == {
        "ranking/hit@1": 0.0,
        "ranking/hit@3": 1.0,
        "ranking/hit@10": 1.0,
        "ranking/mean_reciprocal_rank": 0.5,
    }
    # chance: two of four right, first place 1/2; one of four, 1/4
    assert figures["ranking/hit@1"].controls == pytest.approx({"chance": (0.5 + 0.25) / 2, "majority": 0.5})
    # first of two right among four at places 1, 2, 3 with 3/6, 2/6, 1/6; one right at 1, 2, 3, 4 evenly
    two, one = 3 / 6 + 2 / 6 / 2 + 1 / 6 / 3, (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4
    controls = figures["ranking/mean_reciprocal_rank"].controls
    assert controls == pytest.approx({"chance": (two + one) / 2, "majority": (0.5 + 1) / 2})


def test_a_model_that_likes_all_alike_is_last() -> None:
    found = ranking(np.ones((2, 4)), [frozenset({0}), frozenset({1, 2})], NAMES, [0] * 4, cohort(2), "graph")
    assert found.items["rank"].tolist() == [4, 3]
    for figure in found.figures:  # where training says nothing, its order is chance
        assert figure.controls["majority"] == pytest.approx(figure.controls["chance"])


@pytest.mark.parametrize(("above", "hits", "size"), [(0, 1, 5), (2, 2, 4), (1, 3, 3), (0, 5, 6)])
def test_expectations_are_means_over_all_orders(above: int, hits: int, size: int) -> None:
    ranks = [
        above + 1 + next(place for place, entry in enumerate(order) if entry < hits)
        for order in permutations(range(size))
    ]
    wanted = [np.mean([rank <= k for rank in ranks]) for k in (1, 3, 10)] + [np.mean([1 / rank for rank in ranks])]
    assert expected(above, hits, size) == pytest.approx(wanted)


def test_nothing_to_find_is_refused() -> None:
    with pytest.raises(UserError, match="no test item has an entry of the vocabulary"):
        ranking(np.ones((1, 4)), [frozenset()], NAMES, [0] * 4, cohort(1), "list")


def texts(graph: bool) -> BagTexts:
    terms = [Term(f"X:{number}", name) for number, name in enumerate(["disease", "adenoma", "lymphoma"])]
    captions = [["An adenoma"], ["a  lymphoma", "an Adenoma"], ["necrosis"]]
    concepts = [frozenset({1}), frozenset({1, 2}), frozenset[int]()]
    return BagTexts(None, captions, concepts, compile_graph([terms]) if graph else None, None)  # type: ignore[arg-type]


def test_a_vocabulary_is_the_graph_a_list_or_what_training_says() -> None:
    train = np.array([0])
    whole = vocabulary_of(texts(True), None, train)
    assert (whole.names, whole.source) == (("disease", "adenoma", "lymphoma"), "graph")
    assert whole.held == (frozenset({1}), frozenset({1, 2}), frozenset())
    some = vocabulary_of(texts(True), ["lymphoma", "X:0"], train)
    assert (some.names, some.concepts, some.source) == (("lymphoma", "disease"), ("X:2", "X:0"), "list")
    assert some.held == (frozenset(), frozenset({0}), frozenset())
    told = vocabulary_of(texts(False), None, train)
    assert (told.names, told.concepts, told.source) == (("An adenoma",), ("",), "training captions")
    kept = TextsOfBags(["lymphoma"], "a slide of {}").asked(texts(True), train)
    assert kept == (Entry("lymphoma", "X:2", "a slide of lymphoma"),)
    assert told.held == (frozenset({0}), frozenset({0}), frozenset())
    with pytest.raises(UserError, match="no graph to find it in"):
        vocabulary_of(texts(False), ["adenoma"], train)
