"""Linking: the longest match, whatever the spelling, with spans into the text as it was given."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.knowledge.compile import compile_graph
from core.knowledge.coverage import coverage
from core.knowledge.graph import KnowledgeGraph
from core.knowledge.linking import Linker
from core.knowledge.normalise import key, tokens
from core.knowledge.stop_forms import is_stop_form
from core.knowledge.terms import Term
from core.types import UserError
from tests.core.knowledge.graphs import needs_data, real

TERMS = [
    Term("D:0", "disease"),
    Term("D:1", "carcinoma", parents=("D:0",)),
    Term("D:2", "squamous cell carcinoma", synonyms=(("SCC", "EXACT"),), parents=("D:1",)),
    Term("D:3", "lung non-small cell carcinoma", synonyms=(("NSCLC", "EXACT"),), parents=("D:1",)),
    Term("D:4", "acute lymphoblastic leukemia", synonyms=(("ALL", "EXACT"), ("leukemia, acute lymphoid", "EXACT"))),
    Term("D:5", "Crohn's disease", parents=("D:0",)),
    Term("D:6", "Sjögren syndrome"),
    Term("D:7", "metastasis"),
    Term("D:8", "platelets"),
    Term("D:9", "pancreatic β-cell"),
    Term("D:10", "esophagus tumor", synonyms=(("in", "EXACT"), ("xy", "EXACT"))),
    Term("D:11", "adenoma"),
    Term("D:12", "bronchus"),
    Term("D:13", "epithelium"),
    Term("D:15", "B cell"),
    Term("D:16", "pancreatic alpha cell", synonyms=(("A cell", "EXACT"),)),
    Term("D:14", "Streptococcus pneumonia", parents=("D:0",)),
]
GRAPH = compile_graph([TERMS])
LINKER = Linker(GRAPH)


def found(text: str, linker: Linker = LINKER) -> list[tuple[str, str]]:
    """(words, name of the concept) of each mention, after checking the spans."""
    mentions = linker.link(text)
    assert all(text[mention.start : mention.end] == mention.text for mention in mentions)
    return [(mention.text, linker.graph.name(mention.concept)) for mention in mentions]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Squamous-Cell Carcinomas", "squamous cell carcinoma"),
        ("squamous cell  carcinoma", "squamous cell carcinoma"),
        ("squamous\ncell carcinomata", "squamous cell carcinoma"),
        ("lung nonsmall cell carcinoma", "lung non-small cell carcinoma"),
        ("lung non small cell carcinoma", "lung non-small cell carcinoma"),
        ("lung non\u2010small\u2011cell carcinoma", "lung non-small cell carcinoma"),
        ("acute lymphoid leukaemia, acute lymphoblastic leukaemias", "acute lymphoblastic leukemia"),
        ("leukemia acute lymphoid", "acute lymphoblastic leukemia"),
        ("Crohn disease", "Crohn's disease"),
        ("Crohns disease", "Crohn's disease"),
        ("CROHN\u2019S DISEASE", "Crohn's disease"),
        ("Sjogren's syndrome", "Sjögren syndrome"),
        ("sjo\u0308gren syndrome", "Sjögren syndrome"),
        ("car\u00adcinoma", "carcinoma"),
        ("metastases", "metastasis"),
        ("platelet", "platelets"),
        ("pancreatic beta cells", "pancreatic β-cell"),
        ("oesophagus tumour", "esophagus tumor"),
        ("adenomata", "adenoma"),
        ("bronchi", "bronchus"),
        ("epithelia", "epithelium"),
        ("B-cells", "B cell"),
    ],
)
def test_spelling_makes_no_difference(text: str, name: str) -> None:
    assert found(f"Seen here: {text}.")[-1:] == [(text.split(", ")[-1], name)]


@pytest.mark.parametrize(
    "text",
    [
        "disease",  # generic
        "a cell",  # stop words and generic ones alone
        "xy in",  # too short
        "squamous cell. Carcinomatosis",  # across the end of a sentence
        "lung non-small (cell) carcinomatous",
        "Streptococcus pneumoniae",  # a Latin genitive is no plural
        "precarcinoma carcinomatous",  # parts of words
        "",
        " \u00ad-- ,",
    ],
)
def test_what_means_nothing_links_nothing(text: str) -> None:
    assert found(text) == []


def test_the_longest_match_wins_and_uses_up_its_words() -> None:
    assert found("carcinoma, squamous cell carcinoma carcinoma") == [
        ("carcinoma", "carcinoma"),
        ("squamous cell carcinoma", "squamous cell carcinoma"),
        ("carcinoma", "carcinoma"),
    ]
    # a long form that breaks off leaves the short one within it
    assert found("squamous cell metastasis") == [("metastasis", "metastasis")]


def test_acronyms_match_by_case() -> None:
    assert found("ALL in all of them, and NSCLCs; scc, Scc") == [
        ("ALL", "acute lymphoblastic leukemia"),
        ("NSCLCs", "lung non-small cell carcinoma"),
    ]
    assert found("ALL CARCINOMAS") == [("CARCINOMAS", "carcinoma")]  # capitals everywhere say nothing
    assert found("ALL") == [("ALL", "acute lymphoblastic leukemia")]


def test_a_name_wins_over_synonyms_and_an_ancestor_over_its_equals() -> None:
    terms = [
        Term("A:1", "nevus cell"),
        Term("A:2", "mole", synonyms=(("nevus cell", "EXACT"), ("birthmark", "RELATED"))),
        Term("A:3", "naevus", synonyms=(("birthmark", "EXACT"), ("spot one", "EXACT"), ("twofold", "BROAD"))),
        Term("A:4", "blue naevus", synonyms=(("spot one", "EXACT"), ("twofold", "BROAD")), parents=("A:3",)),
        Term("A:5", "wart", synonyms=(("bump", "EXACT"),)),
        Term("A:6", "cyst", synonyms=(("bump", "EXACT"),)),
    ]
    linker = Linker(compile_graph([terms]))
    assert found("nevus cell; birthmark; spot one; bump", linker) == [
        ("nevus cell", "nevus cell"),
        ("birthmark", "naevus"),
        ("spot one", "naevus"),
    ]
    assert linker.ambiguous() == {"bump": (4, 5)}


def aliased(folder: Path, rows: str) -> Linker:
    path = folder / "aliases.csv"
    path.write_text(rows, encoding="utf-8")
    return Linker(GRAPH, path)


def test_an_alias_wins_over_all(tmp_path: Path) -> None:
    rows = ["text,concept,why", "all,D:1,mine", "Ca,carcinoma,short", "platelets,none,noise", "disease,D:0,"]
    linker = aliased(tmp_path, "\n".join([*rows, "squamous cell carcinoma,,"]))
    assert found("ALL ca, platelet", linker) == [("ALL", "carcinoma"), ("ca", "carcinoma")]
    # what is linked to nothing takes its words along
    assert found("squamous cell carcinomas of a disease", linker) == [("disease", "disease")]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("words,concept\na,b\n", "expected text and concept"),
        ("text,concept\nx-ray,D:99\n", "line 2"),
        ("text,concept\nx-ray,D:1\nx-ray,D:2\n", "two meanings"),
        ("text,concept\n,D:1\n", "line 2"),
    ],
)
def test_a_wrong_alias_is_named_with_its_line(tmp_path: Path, rows: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        aliased(tmp_path, rows)


def test_a_missing_alias_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.csv"):
        Linker(GRAPH, tmp_path / "nowhere.csv")


WORDS = [name for term in TERMS for name in (term.name, *(text for text, _ in term.synonyms))]
JOINTS = [
    " ",
    "-",
    ", ",
    ". ",
    " (",
    ")",
    "\n",
    "\u00a0",
    "'s ",
    "\u2019",
    "/",
    "\u0301",
    "\u00ad",
    "😀",
    "ß",
    "İ",
    "ﬁ",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(JOINTS), st.text(max_size=4)), max_size=12))
def test_spans_survive_any_text(parts: list[str]) -> None:
    text = "".join(parts)
    end = 0
    for mention in LINKER.link(text):
        assert end <= mention.start < mention.end
        assert mention.text == text[mention.start : mention.end]
        assert not mention.text[0].isspace()
        assert not mention.text[-1].isspace()
        end = mention.end


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(WORDS), st.sampled_from(["NFC", "NFD", "NFKC"]))
def test_a_composed_and_a_decomposed_text_link_alike(word: str, form: str) -> None:
    normal = unicodedata.normalize(form, word)  # type: ignore[arg-type]
    assert [m.concept for m in LINKER.link(normal)] == [m.concept for m in LINKER.link(word)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("disease", "diseases"), ("virus", "viruses"), ("abscess", "abscesses"), ("biopsy", "biopsies"),
        ("vertebra", "vertebrae"), ("nucleus", "nuclei"), ("mitochondrion", "mitochondria"), ("cortex", "cortices"),
        ("bacterium", "bacteria"), ("diagnosis", "diagnoses"), ("anaemia", "anemia"), ("colour", "color"),
    ],
)  # fmt: skip
def test_words_of_one_meaning_have_one_key(one: str, other: str) -> None:
    assert key(one) == key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("mass", "mas"), ("pus", "pu"), ("ileum", "ilium"), ("mitosis", "meiosis"), ("lens", "lense x"), ("axon", "axis")],
)
def test_words_of_two_meanings_have_two(one: str, other: str) -> None:
    assert key(one) != key(other)


def test_coverage_says_what_is_linked_and_what_is_not() -> None:
    texts = ["a carcinoma", "a carcinoma", "adenoma and carcinoma", "a glass", "a glass", "water"]
    result = coverage(texts, LINKER)
    assert (result.texts, result.linked, result.share) == (6, 3, 0.5)
    assert result.concepts == ((GRAPH.find("carcinoma"), 3), (GRAPH.find("adenoma"), 1))
    assert result.unlinked == (("a glass", 2), ("water", 1))
    assert "linked_texts: 3 of 6 (50.0%)" in result.lines(LINKER)
    assert not any("glass" in line for line in result.lines(LINKER, limit=0))


@pytest.fixture(scope="module")
def doid() -> KnowledgeGraph:
    return real("doid-2024-01-31.obo.gz")


@needs_data
def test_every_name_of_a_real_ontology_links_to_its_concept(doid: KnowledgeGraph) -> None:
    linker = Linker(doid)
    ambiguous = {concept for concepts in linker.ambiguous().values() for concept in concepts}
    wrong = []
    rng = np.random.default_rng(0)
    for concept in rng.choice(len(doid), 2000, replace=False).tolist():
        name = doid.name(concept)
        if concept in ambiguous or is_stop_form(name, [word.key for word in tokens(name)]):
            continue
        text = f"(Figure 1: {name}, in a patient)"
        mentions = [mention for mention in linker.link(text) if mention.concept == concept]
        if not mentions or mentions[0].start != text.index(name):
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("No adenoma.", []),
        ("Glands without atypia, adenoma or carcinoma", []),
        ("negative for squamous cell carcinoma and metastasis", []),
        ("An adenoma was not seen; a carcinoma was.", ["carcinoma"]),
        ("Metastasis has been ruled out", []),
        ("Free of metastasis but with an adenoma", ["adenoma"]),
        ("No metastasis. Adenoma", ["adenoma"]),
        ("Papillae and no necrosis, adenoma of the bronchus", ["adenoma", "bronchus"]),
        ("There is no doubt of carcinoma", ["carcinoma"]),
        ("not only an adenoma, also carcinoma", ["adenoma", "carcinoma"]),
        ("lung non-small cell carcinoma", ["lung non-small cell carcinoma"]),
        ("No. 5: adenoma", ["adenoma"]),
        ("Glands with and without adenoma", ["adenoma"]),
        ("no mitoses in any of the ten fields around this adenoma", ["adenoma"]),  # denials reach five words
    ],
)
def test_what_a_text_denies_is_not_linked(text: str, names: list[str]) -> None:
    assert [name for _, name in found(text)] == names


@needs_data
def test_real_captions_are_understood(doid: KnowledgeGraph) -> None:
    linker = Linker(doid)
    text = "Keratinising squamous-cell carcinomas of the lung, lung small-cell carcinoma; no lymphoma. H&E, ×200."
    names = [doid.name(mention.concept) for mention in linker.link(text)]
    assert names[-1] == "lung small cell carcinoma"
    assert "squamous cell carcinoma" in names[0]
