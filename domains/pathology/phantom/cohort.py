"""Who has what: patients, their slides, the lesions on them, and the split, before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core.types import UserError
from domains.pathology.phantom.diseases import Leaf

Split = Literal["train", "val", "test"]

LESIONS_PER_SLIDE = 6
SHARES: tuple[tuple[Split, float], ...] = (("train", 0.60), ("val", 0.15), ("test", 0.25))
FEWEST_PATIENTS = 12  # of them 3 in test, with 4 slides: room for each leaf once
RARER = 0.5  # frequency of a tier over that of the tier before it, in training


@dataclass(frozen=True)
class SlidePlan:
    """One slide to draw."""

    name: str  # "P007-A"
    patient: str  # "P007"
    split: Split
    leaves: tuple[int, ...]  # class of each lesion, in the order of the places on the slide


def plan(patients: int, leaves: Sequence[Leaf], rng: np.random.Generator) -> tuple[SlidePlan, ...]:
    """Deals lesions out to slides.

    Training has few lesions of the rare tiers; validation and test have each leaf about equally often, spread over as
    many patients as there are lesions of it (at least three in test with 40 patients or more), so that what is rare
    when a model learns can still be measured. Every fourth patient has two slides.

    Raises:
        UserError: too few patients for each leaf to occur in test.
    """
    if patients < FEWEST_PATIENTS:
        raise UserError(
            f"a phantom of {patients} patients is too small for each leaf to occur in test",
            "data.phantom.patients",
            f"use {FEWEST_PATIENTS} or more",
        )
    tumours = [code for code, leaf in enumerate(leaves) if leaf.growth]
    plans = []
    number = 0
    for split, count in split_sizes(patients):
        slides = [
            (f"P{number + k + 1:03d}", f"P{number + k + 1:03d}-{'AB'[s]}")
            for k in range(count)
            for s in range(2 if k % 4 == 0 else 1)
        ]
        number += count
        weights = np.array([RARER ** leaves[code].tier if split == "train" else 1.0 for code in tumours])
        amounts = _apportion(weights, len(slides) * LESIONS_PER_SLIDE, rng)
        dealt = _deal(dict(zip(tumours, amounts, strict=True)), [patient for patient, _ in slides], rng)
        plans.extend(SlidePlan(name, patient, split, held) for (patient, name), held in zip(slides, dealt, strict=True))
    return tuple(plans)


def split_sizes(patients: int) -> list[tuple[Split, int]]:
    test = max(3, round(patients * SHARES[2][1]))
    val = max(2, round(patients * SHARES[1][1]))
    return [("train", patients - val - test), ("val", val), ("test", test)]


def _apportion(weights: np.ndarray, total: int, rng: np.random.Generator) -> list[int]:
    """Whole numbers that sum to ``total`` in proportion to ``weights``: largest remainders, ties at random."""
    exact = weights / weights.sum() * total
    amounts = np.floor(exact).astype(int)
    order = np.argsort(-(exact - amounts) + rng.uniform(0, 1e-6, len(weights)))
    amounts[order[: total - amounts.sum()]] += 1
    return amounts.tolist()


def _deal(amounts: dict[int, int], patients: list[str], rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Puts lesions on slides: rare leaves first, each on the emptiest slide of the patient who has fewest of it."""
    held: list[list[int]] = [[] for _ in patients]
    for code in sorted(amounts, key=lambda leaf: (amounts[leaf], leaf)):
        for _ in range(amounts[code]):
            has = dict.fromkeys(patients, 0)
            for patient, lesions in zip(patients, held, strict=True):
                has[patient] += lesions.count(code)
            free = [slide for slide, lesions in enumerate(held) if len(lesions) < LESIONS_PER_SLIDE]
            chosen = min(free, key=lambda slide: (has[patients[slide]], len(held[slide]), rng.random()))
            held[chosen].append(code)
    return [tuple(int(code) for code in rng.permutation(lesions)) for lesions in held]
