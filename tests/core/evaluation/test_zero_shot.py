"""Zero-shot figures and their controls, worked by hand on the tree of ``test_hierarchy``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from core.evaluation.classification import classification
from core.evaluation.cohort import Classes, Cohort, as_control
from core.evaluation.hierarchy import Hierarchy
from core.evaluation.prompts import class_weights, encode_prompts, prompt_spread
from core.evaluation.zero_shot import zero_shot
from core.types import UserError
from tests.core.evaluation.test_hierarchy import LEAVES, TABLE


@pytest.fixture
def classes(tmp_path: Path) -> Classes:
    path = tmp_path / "parents.csv"
    path.write_text(TABLE)
    return Classes(LEAVES, np.array([50, 30, 19, 1]), Hierarchy.from_csv(path, LEAVES))


LABELS = np.array([0, 0, 1, 1, 2, 3])
GUESSES = np.array([0, 1, 1, 3, 2, 0])  # right, sibling (2), right, far (4), right, far (4)


def _cohort(n: int = 6) -> Cohort:
    return Cohort([f"i{k}" for k in range(n)], [f"p{k // 3}" for k in range(n)], "patient", "synthetic")


def test_figures_and_controls_are_those_worked_by_hand(classes: Classes) -> None:
    evaluation = zero_shot(np.eye(4)[GUESSES], np.eye(4), LABELS, classes, _cohort())
    figures = {figure.name.removeprefix("zero_shot/"): figure for figure in evaluation.figures}
    values = as_control(evaluation)
    assert values["leaf_accuracy"] == pytest.approx(3 / 6)
    assert values["balanced_accuracy"] == pytest.approx((1 / 2 + 1 / 2 + 1 + 0) / 4)
    assert values["parent_accuracy"] == pytest.approx(4 / 6)
    assert values["tree_distance_of_errors"] == pytest.approx((2 + 4 + 4) / 3)
    assert values["rare_leaf_accuracy"] == 0  # normal is 1 % of training, below 5 %
    leaf, parent, distance = (figures[n] for n in ("leaf_accuracy", "parent_accuracy", "tree_distance_of_errors"))
    assert leaf.controls["chance"] == 0.25
    assert leaf.controls["majority"] == pytest.approx(2 / 6)  # ductal, the commonest in training
    # two of four leaves share a parent with ductal or lobular (four items), one of four with the others
    assert parent.controls["chance"] == pytest.approx((4 * 2 / 4 + 2 * 1 / 4) / 6)
    assert parent.controls["majority"] == pytest.approx(4 / 6)
    assert distance.controls["majority"] == pytest.approx((2 + 2 + 3 + 4) / 4)
    assert (distance.n, distance.units) == (3, 2)
    assert (leaf.n, leaf.units, leaf.unit, leaf.note) == (6, 2, "patient", "synthetic")
    assert leaf.low <= leaf.value <= leaf.high


def test_items_say_what_was_measured_on_each(classes: Classes) -> None:
    items = zero_shot(np.eye(4)[GUESSES], np.eye(4), LABELS, classes, _cohort()).items
    assert items["prediction"].tolist() == ["ductal", "lobular", "lobular", "normal", "sarcoma", "ductal"]
    assert items["distance"].tolist() == [0, 2, 0, 4, 0, 4]
    assert items["correct"].tolist() == [True, False, True, False, True, False]
    assert items["id"].tolist() == [f"i{k}" for k in range(6)]


def test_a_perfect_model_has_no_distance_of_errors_and_says_so(classes: Classes) -> None:
    evaluation = zero_shot(np.eye(4)[LABELS], np.eye(4), LABELS, classes, _cohort())
    distance = next(f for f in evaluation.figures if f.name.endswith("errors"))
    assert np.isnan(distance.value)
    assert "no interval" in distance.note
    leaf = evaluation.figures[0]
    assert (leaf.value, leaf.low, leaf.high) == (1, 1, 1)
    assert "no width" in leaf.note


def test_further_controls_stand_beside_the_figure_they_belong_to(classes: Classes) -> None:
    control = classification("resnet18", np.eye(4)[LABELS], LABELS, classes, _cohort())
    known = {"resnet18": as_control(control)}
    evaluation = zero_shot(np.eye(4)[GUESSES], np.eye(4), LABELS, classes, _cohort(), known)
    assert all(f.controls["resnet18"] == 1 for f in evaluation.figures if f.name.endswith("leaf_accuracy"))


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to evaluate"):
        Cohort([], [])


class Letters:
    """A text tower with known embeddings: the counts of the letters a, b and c."""

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[text.count(letter) for letter in "abc"] for text in texts])

    def encode_texts(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(tokens.float(), dim=-1)

    def parameters(self) -> object:
        return iter(())


def test_a_class_weight_is_the_normalised_mean_of_unit_prompts() -> None:
    """aaa and b give (1, 0, 0) and (0, 1, 0), whatever their length: the mean points halfway."""
    weights = class_weights(Letters(), {"x": ["aaa", "b"], "y": ["c"]}, ["{}"])
    assert weights == pytest.approx(np.array([[1, 1, 0], [0, 0, np.sqrt(2)]]) / np.sqrt(2))


def test_all_names_meet_all_templates_and_the_texts_are_kept() -> None:
    prompts = encode_prompts(Letters(), {"x": ["a", "b"], "y": ["c"]}, ["{}.", "see {}"], batch=2)
    assert prompts.by_class() == {"x": ["a.", "see a", "b.", "see b"], "y": ["c.", "see c"]}
    assert prompts.embeddings.shape == (6, 3)


def test_the_spread_shows_how_much_a_figure_hangs_on_its_prompts() -> None:
    """Class x has a good name and one that means y: half of the prompt sets are right, half wrong on x."""
    prompts = encode_prompts(Letters(), {"x": ["a", "c"], "y": ["b"]}, ["{}"])
    spread = prompt_spread(prompts, np.eye(3)[[0, 0, 1, 1]], [0, 0, 1, 1], subsets=60)
    assert (spread["high"], spread["subsets"]) == (1.0, 60)
    steady = prompt_spread(encode_prompts(Letters(), {"x": ["a"], "y": ["b"]}, ["{}"]), np.eye(3)[[0, 1]], [0, 1])
    assert steady["low"] == steady["high"] == 1


@pytest.mark.parametrize(
    ("names", "templates"), [({"x": []}, ["{}"]), ({"x": ["a"]}, ["no place"]), ({"x": ["a"]}, [])]
)
def test_prompts_that_cannot_be_made_are_refused(names: dict[str, list[str]], templates: list[str]) -> None:
    with pytest.raises(UserError):
        encode_prompts(Letters(), names, templates)
