"""Tree distances and parents, worked by hand.

root - tumour - carcinoma - ductal, lobular
              - sarcoma
     - normal
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.evaluation.hierarchy import Hierarchy
from core.types import UserError

TABLE = (
    "label,parent\nductal,carcinoma\nlobular,carcinoma\ncarcinoma,tumour\nsarcoma,tumour\ntumour,root\nnormal,root\n"
)
LEAVES = ("ductal", "lobular", "sarcoma", "normal")


def _table(folder: Path, text: str) -> Path:
    path = folder / "parents.csv"
    path.write_text(text)
    return path


def test_distances_count_edges_by_way_of_the_nearest_common_ancestor(tmp_path: Path) -> None:
    hierarchy = Hierarchy.from_csv(_table(tmp_path, TABLE), LEAVES)
    assert hierarchy.distance.tolist() == [[0, 2, 3, 4], [2, 0, 3, 4], [3, 3, 0, 3], [4, 4, 3, 0]]
    assert hierarchy.siblings.tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]
    assert hierarchy.parents[0] == ("carcinoma",)
    assert hierarchy.chance_distance() == pytest.approx([3, 3, 3, 11 / 3])


def test_separate_trees_meet_above_their_roots(tmp_path: Path) -> None:
    hierarchy = Hierarchy.from_csv(_table(tmp_path, "label,parent\na,A\nb,B\n"), ("a", "b"))
    assert hierarchy.distance[0, 1] == 4  # a - A - (all) - B - b
    assert not hierarchy.siblings[0, 1]


def test_one_shared_parent_of_several_is_enough(tmp_path: Path) -> None:
    hierarchy = Hierarchy.from_csv(_table(tmp_path, "label,parent\na,X\na,Y\nb,Y\nc,X\n"), ("a", "b", "c"))
    assert hierarchy.siblings[0].all()
    assert not hierarchy.siblings[1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label,parent\na,X\n", "no parent is given for b"),
        ("label,group\na,X\nb,X\n", "expected label and parent"),
        ("label,parent\na,b\nb,a\n", "its own ancestor"),
        ("label,parent\na,X\nb,X\nX,Y\nY,X\n", "its own ancestor"),
        ("label,parent\na,X\n,X\n", "line 3"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused_with_its_path(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        Hierarchy.from_csv(_table(tmp_path, text), ("a", "b"))
    assert "parents.csv" in str(caught.value)


def test_a_graph_and_its_table_agree(tmp_path: Path) -> None:
    from core.knowledge.load import load_graph

    path = tmp_path / "taxonomy.obo"
    terms = [("root", ""), *(line.split(",") for line in TABLE.split()[1:])]
    stanzas = [f"[Term]\nid: X:{n}\nname: {n}\n" + (f"is_a: X:{p}\n" if p else "") for n, p in terms]
    path.write_text("format-version: 1.2\n\n" + "\n".join(stanzas))
    graph = load_graph(str(path))
    concepts = [graph.index(f"X:{name}") for name in LEAVES]
    of_graph = Hierarchy.from_graph(graph, concepts, LEAVES, "taxonomy.obo")
    of_table = Hierarchy.from_csv(_table(tmp_path, TABLE), LEAVES)
    assert (of_graph.distance == of_table.distance).all()
    assert (of_graph.siblings == of_table.siblings).all()
    assert of_graph.parents == of_table.parents
    pairs = np.array([[graph.tree_distance(a, b) for b in concepts] for a in concepts])
    assert (of_graph.distance == pairs).all()
