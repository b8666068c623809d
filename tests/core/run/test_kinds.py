"""Claims about kinds: a value of another kind than is meant is told by its key, and what was meant passes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from omegaconf import OmegaConf

from core.run import kinds
from core.run.instantiate import instantiate
from core.run.kinds import check_arguments
from core.types import UserError
from tests.core.run.verbs import run

if TYPE_CHECKING:
    from torch import Tensor as Unknown  # known to a type checker alone


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions below count as the suite's own."""
    monkeypatch.setattr(kinds, "OWN", ("core", "domains", "tests"))


def test_annotations_of_other_packages_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "OWN", ("core", "domains"))
    check_arguments(taken, {"whole": "abc"}, "part")


def taken(
    whole: int = 0,
    number: float = 0.0,
    word: str | None = None,
    switch: bool = False,
    widths: list[int] | tuple[float, ...] = (),
    pair: tuple[int, str] = (0, ""),
    table: dict[str, int] | None = None,
    thing: Unknown | None = None,
    **more: Any,
) -> None:
    """Takes one argument of each kind."""


@pytest.mark.parametrize(
    "given",
    [
        {"whole": 3, "number": 3, "word": None, "switch": True},
        {"number": 1e-3, "word": 16, "widths": [], "pair": [1, "a"], "table": {"a": 1}},
        {"widths": [1, 2], "thing": 3, "more": "what", "table": None},
        {"widths": [0.5]},
    ],
)
def test_what_is_meant_passes(given: dict[str, Any]) -> None:
    check_arguments(taken, given, "part")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"whole": "abc"}, "part.whole is 'abc'. give a whole number."),
        ({"whole": 1.5}, "part.whole is 1.5. give a whole number."),
        ({"whole": True}, "part.whole is True."),
        ({"whole": None}, "part.whole is null."),
        ({"number": "1,5"}, "part.number is '1,5'. give a number."),
        ({"word": ["a"]}, "part.word is ['a']. give a text or null."),
        ({"switch": "on"}, "give true or false."),
        ({"widths": -1}, "part.widths is -1. give a list: [a whole number, ...] or a list: [a number, ...]."),
        ({"widths": ["a"]}, "part.widths is ['a']."),
        ({"widths": "12"}, "part.widths is '12'."),
        ({"table": "a"}, "part.table is 'a'. give a mapping: {key: value} or null."),
    ],
)
def test_another_kind_is_told_by_its_key(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        check_arguments(taken, given, "part")
    assert words in str(caught.value)


def test_a_part_that_is_built_holds_to_it_and_what_is_no_annotation_of_ours_passes() -> None:
    cfg = OmegaConf.create({"schedule": {"_target_": "core.training.optimiser.CosineWarmup", "steps": "many"}})
    with pytest.raises(UserError, match=r"schedule\.steps is 'many'"):
        instantiate(cfg.schedule)
    assert instantiate({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}).out_features == 3


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("schedule.steps=abc", "schedule.steps is 'abc'. give a whole number"),
        ("aggregator.hidden=-1", "aggregator.hidden is -1. give a list: [a whole number, ...]"),
        ("optimiser.lr=high", "optimiser.lr is 'high'. give a number"),
    ],
)
def test_an_argument_is_told_before_the_verb_begins(
    key: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "experiment=bags", f"output.root={tmp_path}", key) == 2
    assert words in capsys.readouterr().err
