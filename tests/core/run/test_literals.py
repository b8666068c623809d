"""Claims about literal keys: whatever is typed arrives, and nothing sweeps."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from core.run.compose import Composer, job_part
from core.run.literals import escape, items, quote
from core.types import UserError

ODD = [
    "Größe, (a=b) {x} 'y' ~ [z]",
    "a,b",
    "it's",
    'say "no"',
    "~home/x=1",
    "${oc.env:HOME}",
    "\\${x}",
    "$",
    "${",
    "back\\slash\\",
    "\\'",
    "a\\\\'b",
    "(one, two)",
    "{a: b}",
    " leading and trailing ",
    "1e3",
    "true",
    "-x",
    "a#b",
    "100 %",
    "C:\\slides\\'new'\\",
    "日本語",
    "x[0]",
    "a:b",
    "*?",
]


@pytest.fixture(scope="module")
def composer():
    with Composer("predict", "domains.pathology") as one:
        yield one


@pytest.mark.parametrize("text", ODD)
def test_a_literal_value_arrives_as_it_was_typed(composer: Composer, text: str) -> None:
    cfg = job_part(composer.compose(quote([f"input={text}", f"manifest_options.root={text}"])))
    assert cfg.input == text
    assert cfg.manifest_options.root == text


@given(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1))
@example("\\\\${a}'\\")
@settings(max_examples=25, deadline=None)
def test_any_text_arrives_in_a_sweep_too_and_sweeps_nothing(composer: Composer, text: str) -> None:
    if text in ("null",):
        return
    cfg = composer.compose(quote([f"input={text}"]), sweep=True)
    assert cfg.input == text


@pytest.mark.parametrize("text", ODD)
def test_a_saved_config_gives_the_same_text_back(text: str) -> None:
    saved = OmegaConf.to_yaml(OmegaConf.create(escape({"key": [text, {"inner": text}]})))
    loaded = OmegaConf.create(saved)
    assert loaded.key[0] == text
    assert loaded.key[1].inner == text


def test_lists_only_where_a_list_makes_sense(composer: Composer) -> None:
    cfg = job_part(composer.compose(quote(["prompts=[a gland, 'tumour, solid', it's (b, c)]", "input=[a, b]"])))
    assert list(cfg.prompts) == ["a gland", "tumour, solid", "it's (b, c)"]
    assert cfg.input == "[a, b]"


def test_columns_are_a_mapping_of_any_names(composer: Composer) -> None:
    given_ = quote(["manifest_options.columns={path: file, caption.1: 'a, b (en)'}", "manifest_options.columns.id=No."])
    cfg = job_part(composer.compose(given_))
    assert OmegaConf.to_container(cfg.manifest_options.columns) == {
        "path": "file",
        "caption.1": "a, b (en)",
        "id": "No.",
    }


def test_null_and_nothing_unset_a_key(composer: Composer) -> None:
    assert job_part(composer.compose(quote(["input=x", "input=null"]))).input is None
    assert job_part(composer.compose(quote(["input="]))).input is None


def test_other_keys_keep_hydras_grammar() -> None:
    assert quote(["seed=1,2", "-m", "model=small", "+run.x=(1)"]) == ["seed=1,2", "-m", "model=small", "+run.x=(1)"]


def test_a_list_without_end_is_told() -> None:
    with pytest.raises(UserError, match="no ']' at its end"):
        items("[a, b")
