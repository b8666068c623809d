"""What captions say, and that it is true."""

from __future__ import annotations

import numpy as np
import pytest

from domains.pathology.phantom.captions import compose
from domains.pathology.phantom.diseases import GROWTHS, VARIANTS, Leaf, concepts, leaves

DRAWS = 200
CASES = [(leaf, linked) for linked in (True, False) for leaf in leaves(linked)]


def _captions(leaf: Leaf) -> list[tuple[str, str | None]]:
    rng = np.random.default_rng(0)
    drawn = [compose(leaf, rng) for _ in range(DRAWS)]
    return [(caption.text.lower(), caption.concept.id if caption.concept else None) for caption in drawn]


@pytest.mark.parametrize(("leaf", "linked"), CASES, ids=lambda case: getattr(case, "concept", case) and str(case)[:24])
def test_captions_name_their_concept_and_no_other_leaf(leaf: Leaf, linked: bool) -> None:
    words = {concept.id: [word.lower() for word in (concept.name, *concept.synonyms)] for concept in concepts()}
    for text, concept in _captions(leaf):
        named = {id for id, known in words.items() if any(word in text for word in known)}
        assert named <= {leaf.concept.id, leaf.family.id}, text
        if concept is None:
            assert not named, text
        else:
            assert concept in named, text
            assert concept == leaf.concept.id or named == {leaf.family.id}, text


@pytest.mark.parametrize("linked", [True, False])
def test_attributes_are_those_of_the_look(linked: bool) -> None:
    for leaf in leaves(linked)[:-1]:
        assert leaf.growth is not None
        assert leaf.variant is not None
        others = [
            phrase for growth in GROWTHS if growth is not leaf.growth for phrase in (*growth.phrases, *growth.tones)
        ]
        others += [phrase for variant in VARIANTS if variant is not leaf.variant for phrase in variant.phrases]
        for text, _ in _captions(leaf):
            for phrase in others:
                assert phrase not in text.replace(f"no {phrase}", ""), (leaf.concept.name, text)


def test_captions_mention_deny_and_leave_out() -> None:
    leaf = leaves(True)[0]
    assert leaf.variant is not None
    captions = _captions(leaf)
    texts = [text for text, _ in captions]
    assert any("no necrosis" in text for text in texts)
    assert any(not any(phrase in text for phrase in leaf.variant.phrases) for text in texts)
    share = {
        id: sum(concept == id for _, concept in captions) / DRAWS for id in (leaf.concept.id, leaf.family.id, None)
    }
    assert share[leaf.concept.id] > 0.6
    assert share[leaf.family.id] > 0.05
    assert share[None] > 0.02
