"""The hierarchy, and what it says about looks in either setting."""

from __future__ import annotations

import io
from itertools import combinations

import obonet
import pytest

from domains.pathology.phantom.diseases import GROWTHS, VARIANTS, Leaf, concepts, leaves, to_obo


def _tumours(linked: bool) -> list[Leaf]:
    return [leaf for leaf in leaves(linked) if leaf.growth is not None]


def _alike(pairs: list[tuple[Leaf, Leaf]]) -> float:
    """Mean number of attributes (growth, variant) that two leaves share."""
    return sum((a.growth is b.growth) + (a.variant is b.variant) for a, b in pairs) / len(pairs)


def test_siblings_look_alike_only_where_the_hierarchy_is_linked() -> None:
    def within(linked: bool) -> float:
        return _alike([(a, b) for a, b in combinations(_tumours(linked), 2) if a.family == b.family])

    def between(linked: bool) -> float:
        return _alike([(a, b) for a, b in combinations(_tumours(linked), 2) if a.family != b.family])

    assert within(linked=True) == 1.0, "siblings share their growth and nothing else"
    assert within(linked=False) == 0.0, "siblings share nothing"
    assert between(linked=True) == 0.25, "cousins share a variant with one leaf of each other family"
    assert between(linked=False) == 0.5, "what siblings share is dealt out over the other families"


def test_both_settings_show_the_same_sixteen_looks() -> None:
    looks = {linked: {(id(leaf.growth), id(leaf.variant)) for leaf in _tumours(linked)} for linked in (True, False)}
    assert looks[True] == looks[False]
    assert len(looks[True]) == len(GROWTHS) * len(VARIANTS)


@pytest.mark.parametrize("linked", [True, False])
def test_rarity_tells_neither_family_nor_growth_nor_variant(linked: bool) -> None:
    for tier in range(4):
        mine = [leaf for leaf in _tumours(linked) if leaf.tier == tier]
        for attribute in ("family", "growth", "variant"):
            assert len({id(getattr(leaf, attribute)) if attribute != "family" else leaf.family for leaf in mine}) == 4


def test_ontology_is_the_same_tree_in_both_settings() -> None:
    linked, unlinked = (obonet.read_obo(io.StringIO(to_obo(setting))) for setting in (True, False))
    assert set(linked.edges(keys=True)) == set(unlinked.edges(keys=True))
    assert {node: data["name"] for node, data in linked.nodes(data=True)} == {
        concept.id: concept.name for concept in concepts()
    }
    assert all(linked.nodes[concept.id]["def"] for concept in concepts())
    assert {concept.id: concept.parent for concept in concepts() if concept.parent} == {
        child: parent for child, parent, _ in linked.edges(keys=True)
    }


def test_no_name_or_synonym_is_borne_twice() -> None:
    words = [word.lower() for concept in concepts() for word in (concept.name, *concept.synonyms)]
    assert len(words) == len(set(words))
