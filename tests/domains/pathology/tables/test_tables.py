"""The committed tables of classes say what the data and the ontologies say."""

from __future__ import annotations

import os
from pathlib import Path

import obonet
import pandas as pd
import pytest

import domains.pathology
from core.data.captions import words
from core.evaluation.hierarchy import Hierarchy
from core.knowledge.table import read_table

TABLES = Path(domains.pathology.__file__).parent / "tables"
DATA = Path(os.environ.get("TRIVIUM_DATA", Path(__file__).parents[4] / "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA}")


def _labels(name: str) -> set[str]:
    return set(pd.read_csv(DATA / "pathology" / name / "labels.csv")["label"])


@needs_data
def test_blood_cells_are_those_of_the_data_and_of_the_cell_ontology() -> None:
    table = pd.read_csv(TABLES / "blood_cells.csv", keep_default_na=False)
    assert _labels("blood_cells") <= set(table["label"])
    graph = obonet.read_obo(DATA / "knowledge_graph" / "cl-base-2022-09-15.obo.gz")
    for label, concept in zip(table["label"], table["concept"], strict=True):
        if concept:
            assert graph.nodes[concept]["name"] == label


@needs_data
def test_blood_cells_have_the_parents_of_haematology() -> None:
    names = sorted(_labels("blood_cells"))
    tree = Hierarchy.from_csv(TABLES / "blood_cells.csv", names)
    distance = {(a, b): int(tree.distance[i, j]) for i, a in enumerate(names) for j, b in enumerate(names)}
    assert distance["basophil", "neutrophil"] == 2
    assert distance["neutrophil", "lymphocyte"] == 4
    assert distance["erythrocyte", "platelet"] == 2
    assert distance["neutrophil", "platelet"] == 5


@needs_data
def test_every_colorectal_class_is_named_in_the_taxonomy() -> None:
    terms = read_table((TABLES / "colorectal.csv").read_text(encoding="utf-8"))
    known = {word for term in terms for word in (term.name, *(synonym for synonym, _ in term.synonyms))}
    for name in ("colorectal_textures", "colorectal_tissue9_examples"):
        assert {words(label) for label in _labels(name)} <= known


@needs_data
def test_shared_classes_are_seven_and_leave_out_what_has_no_partner() -> None:
    table = pd.read_csv(TABLES / "colorectal_shared.csv")
    shared = {name: dict(zip(rows["label"], rows["shared"], strict=True)) for name, rows in table.groupby("set")}
    first, second = shared["colorectal_textures"], shared["colorectal_tissue9_examples"]
    assert set(first) == _labels("colorectal_textures")
    assert _labels("colorectal_tissue9_examples") - set(second) == {"mucus", "smooth_muscle"}
    assert set(first.values()) == set(second.values())
    assert len(set(first.values())) == 7


def test_no_name_of_the_taxonomy_is_borne_twice() -> None:
    terms = read_table((TABLES / "colorectal.csv").read_text(encoding="utf-8"))
    bearers = [word for term in terms for word in (term.name, *(synonym for synonym, _ in term.synonyms))]
    assert len(bearers) == len(set(bearers))
    ids = {term.id for term in terms}
    assert all(parent in ids for term in terms for parent in term.parents)
