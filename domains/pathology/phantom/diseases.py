"""The made-up diseases of the phantom: a small hierarchy, and the look each leaf has in either setting.

A look has two halves. The *growth* (architecture and tone of the cytoplasm) and the *variant* (nuclei and what lies
among them); four of each give sixteen looks, one for each leaf of four families. In the linked setting a family passes
its growth on to its leaves. In the unlinked setting the same sixteen looks are dealt out so that the leaves of a family
share neither growth nor variant: the hierarchy says nothing about looks, and all else is equal. How common a leaf is
follows from a third square, orthogonal to both, so that frequency tells neither growth, nor variant, nor family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Architecture = Literal["glands", "sheets", "cords", "papillae"]

# multiplication by 2 in the field of four elements; addition is xor. Squares i ^ k*j are mutually orthogonal.
_TWICE = (0, 2, 3, 1)


@dataclass(frozen=True)
class Growth:
    """What a family hands down."""

    architecture: Architecture
    cytoplasm: tuple[int, int]  # haematoxylin and eosin, 0 to 255
    phrases: tuple[str, ...]  # of the architecture, fit to follow "tumour tissue with"
    tones: tuple[str, ...]  # of the cytoplasm


@dataclass(frozen=True)
class Variant:
    """What a leaf adds; lengths in microns, amounts per 1,000 square microns."""

    nucleus: float  # mean diameter
    spread: float  # standard deviation of diameters over their mean
    elongation: float  # long over short axis, mean
    darkness: int  # haematoxylin of a nucleus, 0 to 255
    necrosis: float  # share of the area in necrotic foci
    lymphocytes: float  # per 1,000 square microns
    phrases: tuple[str, ...]
    absent: tuple[str, ...]  # what a caption may truly deny


@dataclass(frozen=True)
class Concept:
    """A term of the phantom's ontology."""

    id: str
    name: str
    synonyms: tuple[str, ...]
    parent: str | None  # id


@dataclass(frozen=True)
class Leaf:
    """A class of the phantom: a term and its look."""

    concept: Concept
    family: Concept
    growth: Growth | None  # None: normal stroma
    variant: Variant | None
    tier: int  # how rare in training: 0 is common, each further tier half as frequent; -1: stroma, on every slide


GROWTHS = (
    Growth(
        "glands",
        (34, 78),
        ("glands around open lumens", "round glandular rings", "well formed tubules"),
        ("amphophilic cytoplasm", "mauve cytoplasm"),
    ),
    Growth(
        "sheets",
        (66, 46),
        ("solid sheets of cells", "a diffuse solid growth", "crowded sheets without lumens"),
        ("bluish cytoplasm", "basophilic cytoplasm"),
    ),
    Growth(
        "cords",
        (16, 112),
        ("thin cords of cells", "parallel trabeculae", "single file rows in stroma"),
        ("deep pink cytoplasm", "eosinophilic cytoplasm"),
    ),
    Growth(
        "papillae",
        (12, 44),
        ("papillary fronds", "finger-like papillae in clear space", "papillae with thin cores"),
        ("pale cytoplasm", "clear cytoplasm"),
    ),
)

VARIANTS = (
    Variant(
        nucleus=5.6,
        spread=0.08,
        elongation=1.1,
        darkness=135,
        necrosis=0.0,
        lymphocytes=0.10,
        phrases=("small even nuclei", "bland uniform nuclei", "small round nuclei"),
        absent=("necrosis", "lymphocytes", "atypia"),
    ),
    Variant(
        nucleus=8.4,
        spread=0.28,
        elongation=1.35,
        darkness=165,
        necrosis=0.0,
        lymphocytes=0.10,
        phrases=("large irregular nuclei", "marked nuclear pleomorphism", "bizarre dark nuclei"),
        absent=("necrosis", "lymphocytes"),
    ),
    Variant(
        nucleus=6.8,
        spread=0.15,
        elongation=1.2,
        darkness=145,
        necrosis=0.22,
        lymphocytes=0.10,
        phrases=("foci of necrosis", "necrotic debris", "pink dead areas with nuclear dust"),
        absent=("lymphocytes", "bizarre nuclei"),
    ),
    Variant(
        nucleus=6.8,
        spread=0.15,
        elongation=1.2,
        darkness=145,
        necrosis=0.0,
        lymphocytes=5.0,
        phrases=("many lymphocytes", "a dense lymphocytic infiltrate", "small dark lymphoid cells throughout"),
        absent=("necrosis", "bizarre nuclei"),
    ),
)

ROOT = Concept("PHA:0000001", "phantom tissue", ("synthetic tissue",), None)
TUMOUR = Concept("PHA:0000002", "phantom tumour", ("phantom neoplasm",), ROOT.id)
NORMAL = Concept("PHA:0000003", "healthy tissue", ("unremarkable tissue",), ROOT.id)
STROMA = Concept("PHA:0000004", "fibrous stroma", ("plain connective tissue", "collagenous stroma"), NORMAL.id)

_FAMILIES = ("velar", "corvan", "silvet", "pendar")
_LEAVES = (
    ("Ashdown", "Brackley", "Calder", "Dunmore"),
    ("Elstow", "Farley", "Garrick", "Hatherly"),
    ("Ilford", "Jarrow", "Kelso", "Lindale"),
    ("Marlow", "Norwood", "Oakham", "Penrith"),
)


def families() -> tuple[Concept, ...]:
    """The four families of tumours."""
    return tuple(
        Concept(f"PHA:00001{i}0", f"{name} tumour", (f"{name}oma", f"{name} cell neoplasm"), TUMOUR.id)
        for i, name in enumerate(_FAMILIES)
    )


def leaves(linked: bool) -> tuple[Leaf, ...]:
    """The seventeen classes: sixteen tumours, family by family, then normal stroma.

    Args:
        linked: whether the leaves of a family share its growth.
    """
    found = []
    for i, family in enumerate(families()):
        for j, name in enumerate(_LEAVES[i]):
            concept = Concept(
                f"PHA:00001{i}{j + 1}", f"{name} disease", (f"{name.lower()}oma", f"tumour of {name}"), family.id
            )
            growth = GROWTHS[i if linked else i ^ j]
            found.append(Leaf(concept, family, growth, VARIANTS[j], tier=i ^ _TWICE[j]))
    return (*found, Leaf(STROMA, NORMAL, None, None, tier=-1))


def definition(concept: Concept, linked: bool) -> str:
    """A sentence that says how a concept looks, where all of it looks alike."""
    for leaf in leaves(linked):
        if concept == leaf.concept and leaf.growth and leaf.variant:
            growth, variant = leaf.growth, leaf.variant
            return f"A {leaf.family.name} with {growth.phrases[0]}, {growth.tones[0]} and {variant.phrases[0]}."
    for i, family in enumerate(families()):
        if concept == family:
            looks = f"{GROWTHS[i].phrases[0]} and {GROWTHS[i].tones[0]}" if linked else "no common look"
            return f"A phantom tumour with {looks}."
    return {
        ROOT: "Everything that the phantom's slides show. Synthetic: no such tissue exists.",
        TUMOUR: "A planted lesion of the phantom.",
        NORMAL: "Tissue of the phantom without a planted lesion.",
        STROMA: "Wavy collagen with sparse spindle nuclei.",
    }[concept]


def concepts() -> tuple[Concept, ...]:
    """All terms, parents first; the same in both settings."""
    return (ROOT, TUMOUR, NORMAL, STROMA, *families(), *(leaf.concept for leaf in leaves(True)[:-1]))


def to_obo(linked: bool) -> str:
    """The ontology as an OBO 1.2 document."""
    stanzas = ["format-version: 1.2\nontology: phantom\nremark: synthetic diseases of the pathology phantom"]
    names = {concept.id: concept.name for concept in concepts()}
    for concept in concepts():
        lines = ["[Term]", f"id: {concept.id}", f"name: {concept.name}"]
        lines.append(f'def: "{definition(concept, linked)}" []')
        lines.extend(f'synonym: "{synonym}" EXACT []' for synonym in concept.synonyms)
        if concept.parent:
            lines.append(f"is_a: {concept.parent} ! {names[concept.parent]}")
        stanzas.append("\n".join(lines))
    return "\n\n".join(stanzas) + "\n"
