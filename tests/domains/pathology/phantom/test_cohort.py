"""Who has what."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from core.types import UserError
from domains.pathology.phantom.cohort import FEWEST_PATIENTS, LESIONS_PER_SLIDE, SlidePlan, plan
from domains.pathology.phantom.diseases import leaves

LEAVES = leaves(linked=True)
TUMOURS = [code for code, leaf in enumerate(LEAVES) if leaf.growth]


def _plan(patients: int, seed: int = 0) -> tuple[SlidePlan, ...]:
    return plan(patients, LEAVES, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
def test_each_leaf_is_in_at_least_three_test_patients_of_the_default_cohort(seed: int) -> None:
    patients = defaultdict(set)
    for slide in _plan(48, seed):
        if slide.split == "test":
            for code in slide.leaves:
                patients[code].add(slide.patient)
    assert set(patients) == set(TUMOURS)
    assert min(map(len, patients.values())) >= 3


def test_each_leaf_is_in_test_and_train_of_the_smallest_cohort() -> None:
    for split in ("train", "test"):
        held = {code for slide in _plan(FEWEST_PATIENTS) if slide.split == split for code in slide.leaves}
        assert held == set(TUMOURS), split


def test_rare_leaves_are_rare_in_training_alone() -> None:
    counts: dict[str, Counter[int]] = {"train": Counter(), "val": Counter(), "test": Counter()}
    for slide in _plan(48):
        counts[slide.split].update(LEAVES[code].tier for code in slide.leaves)
    # each tier half as frequent as the one before it, give or take one lesion a leaf
    shares = [counts["train"][tier] / counts["train"].total() for tier in range(4)]
    assert shares == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15], abs=0.02)
    assert max(counts["test"].values()) - min(counts["test"].values()) <= 4


def test_a_patient_is_in_one_split_and_some_have_two_slides() -> None:
    splits, slides = defaultdict(set), defaultdict(set)
    for slide in _plan(48):
        splits[slide.patient].add(slide.split)
        slides[slide.patient].add(slide.name)
        assert len(slide.leaves) == LESIONS_PER_SLIDE
    assert len(splits) == 48
    assert all(len(found) == 1 for found in splits.values())
    assert sorted(set(map(len, slides.values()))) == [1, 2]


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(UserError, match="too small"):
        _plan(FEWEST_PATIENTS - 1)
