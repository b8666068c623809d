"""Groups, relations between concept sets, caption templates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from core.knowledge.graph import KnowledgeGraph
from core.knowledge.groups import group_captions
from core.knowledge.load import load_graph
from core.knowledge.relations import ConceptSets, RelationTable
from core.knowledge.templates import CaptionTemplates
from core.types import Relation, UserError
from tests.core.knowledge.graphs import TUMOURS, make, random_graph, slow_ancestors


def slow_relation(graph: KnowledgeGraph, row: frozenset[int], column: frozenset[int]) -> Relation:
    """The definition of DESIGN, word by word."""
    if row and row == column:
        return Relation.EQUAL
    if row & column:
        return Relation.SHARED
    if any(a in slow_ancestors(graph, b) for a, b in itertools.product(row, column)):
        return Relation.ANCESTOR
    if any(b in slow_ancestors(graph, a) for a, b in itertools.product(row, column)):
        return Relation.DESCENDANT
    return Relation.UNRELATED


def dense(table: RelationTable, chosen: np.ndarray) -> np.ndarray:
    indptr, indices, codes = table.codes(chosen)
    assert (indptr.dtype, indices.dtype, codes.dtype) == (np.int64, np.int64, np.int8)
    assert (codes > 0).all()
    full = np.zeros((len(chosen), len(chosen)), np.int8)
    for row in range(len(chosen)):
        columns = indices[indptr[row] : indptr[row + 1]]
        assert (np.diff(columns) > 0).all()
        full[row, columns] = codes[indptr[row] : indptr[row + 1]]
    return full


@pytest.mark.parametrize("seed", range(6))
def test_codes_equal_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(seed, 40)
    rows = [frozenset(rng.integers(0, 40, rng.integers(0, 5)).tolist()) for _ in range(150)]
    sets = ConceptSets.intern([*rows, frozenset()])
    assert [sets.sets[i] for i in sets.set_id] == [*rows, frozenset()]
    table = RelationTable(graph, sets)
    for size in (len(sets.sets), 65, 1, 0):  # on, across and below the borders of bit words and row blocks
        chosen = rng.permutation(len(sets.sets))[:size]
        found = dense(table, chosen)
        expected = [[slow_relation(graph, sets.sets[a], sets.sets[b]) for b in chosen] for a in chosen]
        assert found.tolist() == expected


def test_codes_do_not_depend_on_what_else_is_in_the_batch() -> None:
    rng = np.random.default_rng(1)
    graph = random_graph(1, 300)
    sets = ConceptSets.intern([frozenset(rng.integers(0, 300, 3).tolist()) for _ in range(700)])
    table = RelationTable(graph, sets)
    everything = dense(table, np.arange(len(sets.sets)))
    part = rng.permutation(len(sets.sets))[:333]
    assert (dense(table, part) == everything[np.ix_(part, part)]).all()
    assert (everything[0] > 0).any()


def test_an_empty_set_is_unrelated_even_to_itself() -> None:
    sets = ConceptSets.intern([frozenset(), frozenset({0}), frozenset()])
    assert sets.set_id.tolist() == [0, 1, 0]
    assert dense(RelationTable(make({"a": ()}), sets), np.array([0, 1])).tolist() == [[0, 0], [0, Relation.EQUAL]]
    empty = RelationTable(make({"a": ()}), ConceptSets.intern([frozenset()]))
    assert dense(empty, np.array([0])).tolist() == [[0]]


def test_a_shuffled_graph_changes_the_codes() -> None:
    graph = random_graph(2, 60)
    sets = ConceptSets.intern([frozenset({concept}) for concept in range(60)])
    everything = np.arange(60)
    true, other = (dense(RelationTable(g, sets), everything) for g in (graph, graph.shuffled(5)))
    assert (true != other).any()
    assert np.bincount(true.ravel()).tolist() == np.bincount(other.ravel()).tolist()  # the same shape


def test_equal_concepts_group_and_captions_where_there_are_none() -> None:
    captions = ["A cell.", "one", "two", "a  CELL.", "", "", "other", "one"]
    concepts = [
        frozenset(),
        frozenset({1}),
        frozenset({1}),
        frozenset(),
        frozenset(),
        frozenset(),
        frozenset({1, 2}),
        frozenset({2}),
    ]
    grouping = group_captions(captions, concepts, max_share=None)
    assert grouping.group.tolist() == [0, 1, 1, 0, 2, 3, 4, 5]
    assert grouping.names[:2] == ("A cell.", "one")
    assert grouping.ungrouped == ()


def test_a_concept_in_too_many_captions_groups_nothing() -> None:
    captions = [f"caption {number}" for number in range(10)]
    concepts = [frozenset({7}) for _ in range(8)] + [frozenset({7, 3}), frozenset({3})]
    grouping = group_captions(captions, concepts, max_share=0.5)
    assert grouping.ungrouped == (7,)
    assert grouping.group.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert group_captions(captions, concepts, 1.0).ungrouped == ()
    with pytest.raises(UserError, match="max_share"):
        group_captions(captions, concepts, 0.0)


@pytest.fixture
def tumours(tmp_path) -> KnowledgeGraph:
    (tmp_path / "graph.obo").write_text(TUMOURS)
    return load_graph(tmp_path / "graph.obo")


def test_templates_say_name_synonym_and_chain(tumours: KnowledgeGraph) -> None:
    rng = np.random.default_rng(0)
    concept = tumours.find("squamous cell carcinoma")

    def said(template: str) -> set[str]:
        captions = CaptionTemplates(tumours, [template])
        return {captions.caption(concept, rng) for _ in range(40)}

    assert said("an image of {name}") == {"an image of squamous cell carcinoma"}
    assert said("{synonym}") == {"squamous cell carcinoma", "SCC"}  # a related synonym says something else
    assert said("{chain}") == {"squamous cell carcinoma, carcinoma, neoplasm"}
    root = CaptionTemplates(tumours, ["{chain}"]).caption(tumours.find("disease"), rng)
    assert root == "disease"


def test_captions_are_a_function_of_the_generator(tumours: KnowledgeGraph) -> None:
    captions = CaptionTemplates(tumours, ["{name}", "{synonym}", "{chain}"])
    first, second = ([captions.caption(3, np.random.default_rng(seed)) for seed in range(20)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 1


@pytest.mark.parametrize(
    ("templates", "says"), [([], "no caption template"), (["{organ}"], "organ"), (["{name"], "read")]
)
def test_a_wrong_template_is_named(tumours: KnowledgeGraph, templates: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        CaptionTemplates(tumours, templates)
