"""Files become graphs: formats agree, quirks of real files lose nothing, mistakes are named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from core.knowledge.load import check_graph, load_graph
from core.types import UserError
from tests.core.knowledge.graphs import DATA, TUMOURS, needs_data, real


def written(folder: Path, text: str, name: str = "graph.obo") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_an_obo_file_gives_live_terms_with_all_they_say(tmp_path: Path) -> None:
    graph = load_graph(written(tmp_path, TUMOURS))
    assert graph.ids == ("T:0", "T:1", "T:2", "T:3", "T:4", "T:5")
    assert graph.names[3] == "squamous cell carcinoma"
    assert graph.synonyms[3] == ("SCC", "epidermoid carcinoma")
    assert graph.scopes[3] == ("EXACT", "RELATED")
    # quotes, and an exclamation mark within them, are text; one behind them starts a comment
    assert graph.definitions[1] == 'A growth, "new" and unwanted ! always.'
    assert graph.parents_of(2).tolist() == [1]  # the qualifier {...} is no part of the id
    assert list(graph.counts().items()) == [
        ("live_terms", 6),
        ("synonyms", 4),
        ("definitions", 1),
        ("is_a_edges", 6),
        ("multi_parent_terms", 1),
        ("roots", 1),
    ]


def test_ids_that_moved_are_found(tmp_path: Path) -> None:
    graph = load_graph(written(tmp_path, TUMOURS))
    assert graph.index("T:20") == 2  # alternative id
    assert graph.index("T:9") == 1  # obsolete, with one replacement
    assert graph.find("Carcinoma") == 2
    with pytest.raises(UserError, match="no concept 'T:77'"):
        graph.index("T:77")


def test_an_obsolete_term_without_a_replacement_is_named(tmp_path: Path) -> None:
    graph = load_graph(written(tmp_path, TUMOURS.replace("replaced_by: T:1\n", "")))
    with pytest.raises(UserError, match="'T:9' \\(old tumour\\) is obsolete"):
        graph.index("T:9")


@pytest.mark.parametrize(
    "text",
    [
        TUMOURS.replace("\n\n[", "\n["),  # no blank lines
        TUMOURS.replace("\nis_a", "\n\nis_a"),  # blank lines within stanzas
        TUMOURS.replace("\n", "\r\n"),
        "\ufeff" + TUMOURS,
        TUMOURS.replace("is_a: T:2\n", "is_a: T:2\nrelationship: part_of  X  Y\nxref: :bony prominence\n"),
    ],
    ids=["no blank lines", "blank lines", "windows", "byte order mark", "odd clauses"],
)
def test_layout_makes_no_difference(tmp_path: Path, text: str) -> None:
    assert load_graph(written(tmp_path, text, "other.obo")) == load_graph(written(tmp_path, TUMOURS))


def test_gzip_is_transparent(tmp_path: Path) -> None:
    plain = written(tmp_path, TUMOURS)
    for name in ("graph.obo.gz", "named_plain.obo"):
        (tmp_path / name).write_bytes(gzip.compress(TUMOURS.encode()))
        assert load_graph(tmp_path / name) == load_graph(plain)


def test_obo_json_and_table_agree(tmp_path: Path) -> None:
    obo = """[Term]
id: T:1
name: neoplasm
synonym: "tumor" EXACT []

[Term]
id: T:2
name: carcinoma
def: "Of epithelium." []
is_a: T:1
"""
    iri = "http://purl.obolibrary.org/obo/T_"
    first = {
        "id": iri + "1",
        "lbl": "neoplasm",
        "type": "CLASS",
        "meta": {"synonyms": [{"pred": "hasExactSynonym", "val": "tumor"}]},
    }
    second = {"id": iri + "2", "lbl": "carcinoma", "type": "CLASS", "meta": {"definition": {"val": "Of epithelium."}}}
    relation = {"id": iri + "3", "lbl": "part of", "type": "PROPERTY"}
    edges = [{"sub": iri + "2", "pred": "is_a", "obj": iri + "1"}, {"sub": iri + "1", "pred": "x", "obj": iri + "2"}]
    document = {"graphs": [{"nodes": [first, second, relation], "edges": edges}]}
    table = "id,name,parent,synonyms,definition\nT:2,carcinoma,neoplasm,,Of epithelium.\nT:1,neoplasm,,tumor,\n"
    graphs = [
        load_graph(written(tmp_path, obo)),
        load_graph(written(tmp_path, json.dumps(document), "graph.json")),
        load_graph(written(tmp_path, table, "graph.csv")),
    ]
    assert graphs[0] == graphs[1] == graphs[2]


def test_a_table_of_labels_and_parents_is_a_graph(tmp_path: Path) -> None:
    graph = load_graph(
        written(tmp_path, "label,parent\nneutrophil,white cell|granulocyte\nlymphocyte,white cell\n", "t.csv")
    )
    assert graph.names == ("granulocyte", "lymphocyte", "neutrophil", "white cell")
    assert [graph.name(i) for i in graph.parents_of(graph.find("neutrophil"))] == ["granulocyte", "white cell"]


def test_several_graphs_merge_into_one(tmp_path: Path) -> None:
    base = written(
        tmp_path, '[Term]\nid: A:1\nname: one\nsynonym: "uno" EXACT []\nis_a: B:1\n\n[Term]\nid: B:1\n', "a.obo"
    )
    other = written(
        tmp_path, '[Term]\nid: B:1\nname: top\n\n[Term]\nid: A:1\nname: one\nsynonym: "uno" EXACT []\n', "b.obo"
    )
    alone = load_graph(base)
    assert (alone.dangling, alone.unnamed) == ((("A:1", "B:1"),), ("B:1",))
    for order in ([base, other], [other, base]):
        graph = load_graph(order)
        assert graph.names == ("one", "top")
        assert graph.parents_of(0).tolist() == [1]  # what dangled in one file lives in the other
        assert graph.synonyms == (("uno",), ())
        assert not check_graph(graph)


def test_a_prefix_keeps_one_ontology(tmp_path: Path) -> None:
    text = TUMOURS + "\n[Term]\nid: U:1\nname: organ\n\n[Term]\nid: T:7\nname: organ tumour\nis_a: U:1\nis_a: T:1\n"
    graph = load_graph(written(tmp_path, text), prefix="T")
    assert "U:1" not in graph.ids
    assert graph.parents_of(graph.index("T:7")).tolist() == [graph.index("T:1")]
    with pytest.raises(UserError, match=r"no live term has the prefix 'X'.*T \(7\), U \(1\)"):
        load_graph(written(tmp_path, text), prefix="X")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("text.obo", b"Dear diary,\n", "not an ontology"),
        ("broken.obo", b"[Term]\nid: A:1\nname: \xff\xfe\n", "not an ontology"),
        ("cut.obo.gz", gzip.compress(TUMOURS.encode())[:200], "not an ontology"),
        ("list.json", b"[1, 2]", "not an ontology"),
        ("cut.json", b'{"graphs": [', "not an ontology"),
        ("odd.json", b'{"graphs": [{"edges": [1]}]}', "not an ontology"),
        ("columns.csv", b"a,b\n1,2\n", "expected id, name, parent, synonyms"),
        ("row.csv", b"id,name\nA:1,one\nA:2,\n", "line 3 has no name"),
        ("graph.owl", b"<rdf/>", "robot convert"),
        ("dead.obo", b"[Term]\nid: A:1\n", "no live term"),
    ],
)
def test_what_is_no_ontology_is_refused_by_name(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        load_graph(tmp_path / name)
    assert name in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.obo"):
        load_graph(tmp_path / "nowhere.obo")
    with pytest.raises(UserError, match="no graph is given"):
        load_graph([])


@needs_data
def test_a_robot_template_is_a_flat_taxonomy() -> None:
    graph = load_graph(DATA / "cl-general-slim-template.csv")
    assert graph.counts()["live_terms"] == graph.counts()["roots"] == 11
    assert graph.name(graph.index("CL:0000148")) == "melanocyte"


@needs_data
@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("doid-2024-01-31.obo.gz", "all"),
        ("doid-2015-11-11.obo.gz", "all"),
        ("cl-base-2022-09-15.obo.gz", "all"),
        ("cl-general-slim-2026-06-08.obo.gz", "all"),
        ("cl-general-slim-2026-06-08.obo.gz", "own"),
        ("envo-basic-2025-10-20.obo.gz", "all"),
        ("envo-basic-2025-10-20.obo.gz", "own"),
        ("uberon-musculoskeletal.obo.gz", "all"),
        ("uberon-efo-slim.obo.gz", "all"),
        ("hp-2025-01-16.obo.gz", "all"),
    ],
)
def test_real_ontologies_have_the_counts_of_their_sources(file: str, row: str) -> None:
    facts = json.loads((DATA / "facts.json").read_text())[file]
    wanted = facts[row]
    graph = real(file, wanted.get("prefix"))
    leaves, roots = set(graph.leaves()), set(graph.roots())
    found = {
        **graph.counts(),
        "terms_with_synonym": sum(1 for synonyms in graph.synonyms if synonyms),
        "leaves": len(leaves),
        "isolated": len(leaves & roots),
        "max_depth_longest": graph.depth(),
        "max_depth_shortest": int(graph.depths(longest=False).max()),
        "dangling_is_a_targets": len({target for _, target in graph.dangling}),
        "duplicate_names": sum(1 for finding in check_graph(graph) if finding.kind == "duplicate name"),
        "synonym_scopes": {
            scope: sum(scopes.count(scope) for scopes in graph.scopes) for scope in wanted["synonym_scopes"]
        },
    }
    found["multi_parent"] = found.pop("multi_parent_terms")
    assert found == {name: wanted[name] for name in found}
    if row == "all":
        assert len(graph.retired) == facts["obsolete"]
        assert len(graph.unnamed) == facts["unnamed_live_stanzas"]


@needs_data
def test_a_real_slim_is_the_same_from_obo_and_from_json() -> None:
    obo = real("cl-general-slim-2026-06-08.obo.gz")
    other = load_graph(DATA / "cl-general-slim-2026-06-08.json.gz")
    assert obo.counts() == other.counts()
    for part in ("ids", "names", "synonyms", "scopes", "dangling", "unnamed"):
        assert getattr(obo, part) == getattr(other, part)
    assert obo.parents.indices.tolist() == other.parents.indices.tolist()
    # the two files themselves word one definition differently
    differ = [i for i, both in enumerate(zip(obo.definitions, other.definitions, strict=True)) if both[0] != both[1]]
    assert [obo.ids[i] for i in differ] == ["GO:0110165"]
