"""Claims about linking rows of a manifest to a graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.data.captions import Source
from core.data.concepts import link_labels, link_rows
from core.data.manifest import Manifest
from core.knowledge.graph import KnowledgeGraph
from core.knowledge.linking import Linker
from core.knowledge.load import load_graph
from core.types import UserError

GRAPH = "id,name,parent\nX:9,thing,\nX:0,gland,X:9\nX:1,tumour,X:9\nX:2,tumour gland,X:0\nX:3,stroma,X:9\n"


@pytest.fixture
def graph(tmp_path: Path) -> KnowledgeGraph:
    (tmp_path / "graph.csv").write_text(GRAPH)
    return load_graph(tmp_path / "graph.csv")


def manifest(folder: Path) -> Manifest:
    for name in "abcd":
        (folder / f"{name}.png").write_text(name)
    (folder / "m.csv").write_text(
        "path,label,caption.1,caption.2,concepts\n"
        "a.png,tumour_gland,a stroma,a gland,\n"
        "b.png,vessel,,,\n"
        "c.png,gland,a stroma,,X:1|X:0\n"
        "d.png,,nothing known,,\n"
    )
    return Manifest.read(folder / "m.csv")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("label", ["2", "", "01", ""]),
        ("caption", ["03", "", "01", ""]),
        ("both", ["023", "", "01", ""]),
    ],
)
def test_a_row_has_the_concepts_of_its_source_and_its_own_column_wins(
    graph: KnowledgeGraph, tmp_path: Path, source: Source, expected: list[str]
) -> None:
    linked = link_rows(manifest(tmp_path), graph, Linker(graph), source)
    assert [{graph.ids[concept] for concept in found} for found in linked.sets] == [
        {f"X:{number}" for number in row} for row in expected
    ]
    assert linked.unlinked == ("vessel",)


def test_a_label_that_names_two_things_is_linked_to_neither(graph: KnowledgeGraph) -> None:
    labels = ["stroma_and_gland", "the_gland", "tumour gland"]
    assert link_labels(labels, Linker(graph)) == {
        "stroma_and_gland": None,
        "the_gland": graph.index("X:0"),
        "tumour gland": graph.index("X:2"),
    }


def test_an_unknown_id_is_named_with_its_row(graph: KnowledgeGraph, tmp_path: Path) -> None:
    path = manifest(tmp_path).path
    path.write_text(path.read_text().replace("X:1|X:0", "X:1|X:77"))
    with pytest.raises(UserError, match=r"X:77.*row 4 \(concepts\)"):
        link_rows(Manifest.read(path), graph, Linker(graph), "both")
