"""Claims about which words a picture is shown with."""

from __future__ import annotations

import numpy as np
import pytest

from core.data.captions import CaptionChooser
from core.types import UserError

CAPTIONS = [["one", "two", "three"], ["only"], []]
LABELS = ["clear_cell", None, "ring"]


class Chain:
    """Templates that tell which concept they were asked for."""

    def caption(self, concept: int, rng: np.random.Generator) -> str:
        return f"concept {concept} #{rng.integers(100)}"


def test_a_choice_depends_on_seed_step_and_row_alone() -> None:
    first = CaptionChooser("caption", CAPTIONS, LABELS, 1)
    again = CaptionChooser("caption", CAPTIONS, LABELS, 1)
    assert [again.choose(step, 0) for step in (9, 2, 9)] == [first.choose(step, 0) for step in (9, 2, 9)]
    assert {first.choose(step, 0)[0] for step in range(40)} == {"one", "two", "three"}


def test_several_captions_are_different_ones_and_counted_before_they_are_chosen() -> None:
    chooser = CaptionChooser("caption", CAPTIONS, LABELS, 1, per_image=2)
    assert chooser.counts(np.array([0, 1])).tolist() == [2, 1]
    for step in range(20):
        assert len(set(chooser.choose(step, 0))) == 2
        assert chooser.choose(step, 1) == ["only"]


def test_a_linked_label_speaks_through_the_graph_and_an_unlinked_one_by_its_name() -> None:
    patterns = ("an image of {name}", "{synonym}: {chain}")
    chooser = CaptionChooser("label", CAPTIONS, LABELS, 1, {"ring": 7}, Chain(), patterns)
    assert chooser.choose(0, 2)[0].startswith("concept 7 #")
    assert len({chooser.choose(step, 2)[0] for step in range(20)}) > 5
    assert {chooser.choose(step, 0)[0] for step in range(20)} == {
        "an image of clear cell",
        "clear cell: clear cell",
    }


def test_both_mixes_and_falls_back_on_what_is_there() -> None:
    chooser = CaptionChooser("both", CAPTIONS, LABELS, 1)
    assert {chooser.choose(step, 0)[0] for step in range(60)} == {"one", "two", "three", "clear cell"}
    assert {chooser.choose(step, 1)[0] for step in range(10)} == {"only"}
    assert {chooser.choose(step, 2)[0] for step in range(10)} == {"ring"}


def test_dropout_leaves_words_in_order_and_never_nothing() -> None:
    chooser = CaptionChooser("caption", [["a b c d e f g h"]], [None], 1, word_dropout=0.5)
    kept = [chooser.choose(step, 0)[0].split() for step in range(200)]
    assert all(words == sorted(words) and words for words in kept)
    assert 3.5 < np.mean([len(words) for words in kept]) < 4.5
    single = CaptionChooser("caption", [["alone"]], [None], 1, word_dropout=0.99)
    assert single.choose(0, 0) == ["alone"]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UserError, match=r"captions\.source is 'words'"):
        CaptionChooser("words", [], [], 0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="per_image 0"):
        CaptionChooser("caption", [], [], 0, per_image=0)
    with pytest.raises(UserError, match=r"template '\{parent\}'"):
        CaptionChooser("label", [], [], 0, patterns=("{parent}",))
    with pytest.raises(UserError, match="no label"):
        CaptionChooser("label", CAPTIONS, LABELS, 0).choose(0, 1)
