"""The cohort for learning from whole slides: who has what, and the table that says it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import shapely
from shapely.geometry import shape

from core.types import UserError
from domains.pathology.phantom import make_whole_slides
from domains.pathology.phantom.diseases import families, leaves
from domains.pathology.phantom.slides import HEIGHT_PX, WIDTH_PX
from domains.pathology.phantom.whole_slides import CENSORED_MONTHS, SOUGHT, plan


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_whole_slides(tmp_path_factory.mktemp("cohort"), patients=12)


def rows(manifest: Path) -> list[dict[str, str]]:
    with open(manifest, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("linked", [True, False])
def test_class_is_the_sought_family_and_tells_nothing_else(linked: bool) -> None:
    classes = leaves(linked)
    plans = plan(160, classes, np.random.default_rng(1))
    for patient in plans:
        for slide in patient.slides:
            sought = [code for code in slide.leaves if classes[code].family == families()[SOUGHT]]
            assert len(sought) == patient.positive
            assert slide.patient == patient.slides[0].patient
    # neither the number of slides, which is that of tiles, nor the split goes with the class
    for key in (lambda patient: len(patient.slides), lambda patient: patient.slides[0].split):
        counts = Counter((key(patient), patient.positive) for patient in plans)
        for value in {value for value, _ in counts}:
            assert abs(counts[value, True] - counts[value, False]) <= 2


def test_risk_is_planted_and_follow_up_is_censored() -> None:
    plans = plan(4000, leaves(True), np.random.default_rng(2))
    severity = np.array([sum(code % 4 == 1 for code in patient.slides[0].leaves) for patient in plans])
    rate = [sum(p.event for p, s in zip(plans, severity, strict=True) if s == n)
            / sum(p.time for p, s in zip(plans, severity, strict=True) if s == n) for n in (0, 3)]  # fmt: skip
    assert rate[1] / rate[0] == pytest.approx(1.9**3, rel=0.15)  # events a month of follow-up: the hazard
    assert 0.1 < np.mean([not patient.event for patient in plans]) < 0.6
    assert max(patient.time for patient in plans) <= CENSORED_MONTHS[1]


def test_table_and_outlines_say_what_was_drawn(manifest: Path) -> None:
    table = rows(manifest)
    assert len({row["group"] for row in table}) == 12
    for row in table:
        features = json.loads((manifest.parent / row["truth"]).read_text())["features"]
        assert len(features) == (row["label"] == "positive")
        area = shapely.union_all([shape(feature["geometry"]) for feature in features]).area
        assert area <= 0.1 * WIDTH_PX * HEIGHT_PX
        assert (manifest.parent / row["path"]).is_file()
    of_patient = Counter(
        (row["group"], row["label"], row["grade"], row["time"], row["necrotic_share"]) for row in table
    )
    assert len(of_patient) == 12  # slides of a patient agree


def test_equal_arguments_give_equal_bytes(manifest: Path, tmp_path: Path) -> None:
    again = make_whole_slides(tmp_path, patients=12)
    assert again.read_bytes() == manifest.read_bytes()
    first = rows(manifest)[0]["path"]
    assert (again.parent / first).read_bytes() == (manifest.parent / first).read_bytes()
    assert make_whole_slides(tmp_path, patients=12) == again


def test_too_few_patients_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too small"):
        make_whole_slides(tmp_path, patients=3)
