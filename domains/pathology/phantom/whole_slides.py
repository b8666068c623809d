"""A cohort for learning from whole slides: one row a slide, and labels of every kind a task over bags can have.

Every slide has six lesions, drawn as those of :func:`domains.pathology.phantom.make` are. What decides the class is
one of them alone: a tumour of one family, the *sought* one, or of any other family in its place. It covers less than a
tenth of a slide's tissue.

==================  ==========================================================================================
column              what decides it
==================  ==========================================================================================
label               whether one lesion is of the sought family: positive or negative, as many patients of each
grade               lesions with pleomorphic nuclei: G1 none, G2 one or two, G3 more
label.<finding>     whether any lesion has necrosis, or dense lymphocytes
necrotic_share      share of the six lesions that have necrosis
time, event         exponential survival (months), its hazard threefold with each pleomorphic lesion; censored
caption, concepts   a report on the commonest disease; it mentions the sought family, denies it, or neither
truth               GeoJSON with the outline of the sought lesion, level-0 pixels
==================  ==========================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from core.types import UserError
from domains.pathology.phantom import slides
from domains.pathology.phantom.captions import compose
from domains.pathology.phantom.cohort import FEWEST_PATIENTS, LESIONS_PER_SLIDE, SlidePlan, split_sizes
from domains.pathology.phantom.diseases import Leaf, families, leaves
from domains.pathology.phantom.folder import MANIFEST, outlines, publish, save, table_of
from domains.pathology.phantom.tissue import MPP, Stain

COLUMNS = ("path", "id", "group", "split", "label", "grade", "label.necrosis", "label.lymphocytes", "necrotic_share",
           "time", "event", "caption", "concepts", "truth", "mpp")  # fmt: skip
SOUGHT = 2  # number of the family that makes a slide positive
PLEOMORPHIC, NECROTIC, LYMPHOCYTIC = 1, 2, 3  # numbers of variants
COMMONEST = 3  # lesions of the disease that the report is about
SCALE_MONTHS, HAZARD_RATIO = 120.0, 3.0  # mean survival without a pleomorphic lesion; for each of them
CENSORED_MONTHS = (12.0, 72.0)  # end of follow-up, uniform


@dataclass(frozen=True)
class PatientPlan:
    """One patient; several slides show the same lesions in other places."""

    slides: tuple[SlidePlan, ...]
    positive: bool
    main: int  # class of the commonest lesions
    time: float  # months
    event: bool


def make_whole_slides(folder: str | Path, seed: int = 0, patients: int = 160, linked: bool = True) -> Path:
    """Makes the cohort below ``folder``, or takes the one that is there from the same recipe.

    It lies in a folder of its own: ``manifest.csv`` (one row a slide; see the module), ``phantom.obo``,
    ``slides/*.tiff``, ``truth/*.geojson`` and ``recipe.json``.

    Args:
        folder: where cohorts are kept; made when it is not there.
        seed: all randomness; patients differ from those of the other cohort of the same seed.
        patients: 12 or more; a quarter of them is for testing. Every fourth patient has two slides.
        linked: whether leaves of a family look alike.

    Returns:
        Path of ``manifest.csv``.

    Raises:
        UserError: too few patients, or the folder cannot be written.
    """
    if patients < FEWEST_PATIENTS:
        raise UserError(f"a cohort of {patients} patients is too small", "data.phantom.patients",
                        f"use {FEWEST_PATIENTS} or more")  # fmt: skip
    recipe = {"phantom": "pathology, whole slides", "seed": seed, "patients": patients, "linked": linked}
    name = f"pathology-slides-{'linked' if linked else 'unlinked'}-{patients}-seed{seed}"
    return publish(folder, name, recipe, lambda made: _write(made, seed, patients, linked)) / MANIFEST


def plan(patients: int, classes: tuple[Leaf, ...], rng: np.random.Generator) -> tuple[PatientPlan, ...]:
    """Who has which lesions, and what becomes of them."""
    sought = [code for code, leaf in enumerate(classes) if leaf.family == families()[SOUGHT]]
    others = [code for code, leaf in enumerate(classes) if leaf.growth and code not in sought]
    pleomorphic = {code for code in (*sought, *others) if _variant(code) == PLEOMORPHIC}
    plans = []
    for split, count in split_sizes(patients):
        for k in range(count):
            name = f"W{len(plans) + 1:03d}"
            positive = k % 2 == 0
            main, second = (int(code) for code in rng.choice(others, 2, replace=False))
            last = int(rng.choice(sought if positive else others))
            lesions = [main] * COMMONEST + [second] * (LESIONS_PER_SLIDE - COMMONEST - 1) + [last]
            severity = sum(code in pleomorphic for code in lesions)
            death = rng.exponential(SCALE_MONTHS / HAZARD_RATIO**severity)
            end = rng.uniform(*CENSORED_MONTHS)
            shown = tuple(
                SlidePlan(f"{name}-{'AB'[s]}", name, split, tuple(int(code) for code in rng.permutation(lesions)))
                for s in range(2 if k % 8 in (0, 5) else 1)  # of each class alike
            )
            plans.append(PatientPlan(shown, positive, main, round(float(min(death, end)), 2), bool(death <= end)))
    return tuple(plans)


def _write(folder: Path, seed: int, patients: int, linked: bool) -> None:
    classes = leaves(linked)
    plans = plan(patients, classes, np.random.default_rng((seed, 5)))
    with table_of(folder, COLUMNS, linked) as table:
        for number, patient in enumerate(track(plans, "drawing the phantom's whole slides", transient=True)):
            stain = Stain.draw(np.random.default_rng((seed, 6, number)))
            for part, slide in enumerate(patient.slides):
                places, brush, words = (np.random.default_rng((seed, s, number, part)) for s in (7, 8, 9))
                drawn = slides.draw(slide, classes, stain, places, brush)
                save(folder, slide.name, drawn, outlines(slide, drawn, classes, families()[SOUGHT]))
                table.writerow(_row(patient, slide, classes, words))


def _row(
    patient: PatientPlan, slide: SlidePlan, classes: tuple[Leaf, ...], rng: np.random.Generator
) -> dict[str, object]:
    variants = [_variant(code) for code in slide.leaves]
    report = compose(classes[patient.main], rng)
    return {
        "path": f"slides/{slide.name}.tiff",
        "id": slide.name,
        "group": slide.patient,
        "split": slide.split,
        "label": "positive" if patient.positive else "negative",
        "grade": f"G{1 + (variants.count(PLEOMORPHIC) > 0) + (variants.count(PLEOMORPHIC) > 2)}",
        "label.necrosis": int(NECROTIC in variants),
        "label.lymphocytes": int(LYMPHOCYTIC in variants),
        "necrotic_share": round(variants.count(NECROTIC) / LESIONS_PER_SLIDE, 4),
        "time": patient.time,
        "event": int(patient.event),
        "caption": " ".join(filter(None, (report.text, _mention(patient.positive, rng)))),
        "concepts": "" if report.concept is None else report.concept.id,
        "truth": f"truth/{slide.name}.geojson",
        "mpp": MPP,
    }


def _mention(positive: bool, rng: np.random.Generator) -> str:
    """What a report says of the sought family: it mentions it, denies it, or leaves it out."""
    family = families()[SOUGHT].name
    if rng.random() < 0.4:
        return ""
    return f"One focus of {family}." if positive else f"No {family}."


def _variant(code: int) -> int:
    """Number of a tumour's variant: leaves are in the order of families, then variants, in either setting."""
    return code % 4
