"""Small ontologies for the tests, and the real ones where they are."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import pytest

from core.knowledge.compile import compile_graph
from core.knowledge.graph import KnowledgeGraph
from core.knowledge.load import load_graph
from core.knowledge.terms import Term

DATA = Path(os.environ.get("TRIVIUM_DATA", Path(__file__).parents[4] / "shared" / "data")) / "knowledge_graph"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the real ontologies are not at {DATA}; set TRIVIUM_DATA")

TUMOURS = """format-version: 1.2
ontology: tumours

[Term]
id: T:0
name: disease

[Term]
id: T:1
name: neoplasm
def: "A growth, \\"new\\" and unwanted ! always." [T:x ! y]
synonym: "tumor" EXACT []
is_a: T:0 ! disease

[Term]
id: T:2
name: carcinoma
alt_id: T:20
is_a: T:1 {is_inferred="true"} ! neoplasm

[Term]
id: T:3
name: squamous cell carcinoma
synonym: "SCC" EXACT ABBREVIATION []
synonym: "epidermoid carcinoma" RELATED []
is_a: T:2

[Term]
id: T:4
name: inflammation
synonym: "ALL" BROAD []
is_a: T:0

[Term]
id: T:5
name: carcinoma with inflammation
is_a: T:2
is_a: T:4

[Term]
id: T:9
name: old tumour
is_obsolete: true
replaced_by: T:1

[Typedef]
id: part_of
name: part of
"""


@functools.cache
def real(file: str, prefix: str | None = None) -> KnowledgeGraph:
    """A real ontology; reading one takes seconds, and several tests want the same."""
    return load_graph(DATA / file, prefix)


def make(parents: dict[str, tuple[str, ...]], **names: str) -> KnowledgeGraph:
    """A graph of the given is_a; a concept is named as its id unless said otherwise."""
    return compile_graph([[Term(id, names.get(id, id), parents=above) for id, above in parents.items()]])


def random_graph(seed: int, count: int) -> KnowledgeGraph:
    """Concepts with up to three parents among the ones before them, under shuffled ids."""
    rng = np.random.default_rng(seed)
    ids = [f"R:{number:04d}" for number in rng.permutation(count)]
    above = [
        tuple(ids[p] for p in set(rng.integers(0, i, rng.integers(0, 4)).tolist())) if i else () for i in range(count)
    ]
    return make(dict(zip(ids, above, strict=True)))


def slow_ancestors(graph: KnowledgeGraph, concept: int) -> set[int]:
    """Proper ancestors by walking up, one step at a time."""
    found: set[int] = set()
    waiting = graph.parents_of(concept).tolist()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += graph.parents_of(node).tolist()
    return found
