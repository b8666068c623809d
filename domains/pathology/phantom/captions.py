"""Captions in plain language: composed from what is there, what is named, and what is denied.

A caption names its disease by name, by synonym or by its family alone, or describes without a name; it may deny what is
absent and may leave out what is there. The concept of a caption is the most specific term it names.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from domains.pathology.phantom.diseases import Concept, Leaf

# share of captions that name the leaf, only the family, or nothing
NAMES_LEAF, NAMES_FAMILY = 0.78, 0.14

_OPENINGS = ("H&E section showing", "Microscopy shows", "This field has", "Seen here:", "A section with")
_NAMED = ("{look}, {name}.", "{look}; features of {name}.", "{look}. Diagnosis: {name}.", "{name}: {look}.")
_BARE = ("{name}.", "A case of {name}.", "Biopsy, {name}.", "{name} in a tissue section.")
_STROMA = ("wavy collagen and spindle nuclei", "pink fibres with few cells", "sparse fibroblasts in collagen")


@dataclass(frozen=True)
class Caption:
    """A text and the concept that it names."""

    text: str
    concept: Concept | None  # None: it only describes


def compose(leaf: Leaf, rng: np.random.Generator) -> Caption:
    """A caption for one field of view of a leaf."""
    draw = rng.random()
    if draw < NAMES_LEAF:
        concept = leaf.concept
    elif draw < NAMES_LEAF + NAMES_FAMILY:
        concept = leaf.family
    else:
        return Caption(_sentence(f"{_pick(_OPENINGS, rng)} {_look(leaf, rng)}."), None)
    name = _pick((concept.name, concept.name, *concept.synonyms), rng)
    if concept is leaf.concept and leaf.growth and rng.random() < 0.2:
        name = f"{name}, a kind of {_pick((leaf.family.name, leaf.family.synonyms[0]), rng)}"
    if rng.random() < 0.2:
        return Caption(_sentence(_pick(_BARE, rng).format(name=name)), concept)
    look = _look(leaf, rng)
    if rng.random() < 0.5:
        look = f"{_pick(_OPENINGS, rng)} {look}"
    return Caption(_sentence(_pick(_NAMED, rng).format(look=look, name=name)), concept)


def _look(leaf: Leaf, rng: np.random.Generator) -> str:
    """What is seen: each attribute is left out now and then, and something absent may be denied."""
    if leaf.growth is None or leaf.variant is None:
        return f"{_pick(_STROMA, rng)}, no tumour" if rng.random() < 0.4 else _pick(_STROMA, rng)
    parts = [
        _pick(phrases, rng)
        for phrases, kept in ((leaf.growth.phrases, 0.85), (leaf.growth.tones, 0.4), (leaf.variant.phrases, 0.85))
        if rng.random() < kept
    ] or [_pick(leaf.growth.phrases, rng)]
    if rng.random() < 0.25:
        parts.append(f"no {_pick(leaf.variant.absent, rng)}")
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
