"""The road from the phantom's whole slides to figures: embed makes them, and every task over bags learns from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.evaluation.tables import read_results
from core.mil.features import EmbeddedFeatures
from core.run.entry import main
from tests.core.run.test_embed import plain_vit

FEW = "data.phantom.patients=12"
TASKS = {
    "": "patient/macro_auroc",
    "bag_task=ordinal bags.columns=[grade] bags.classes=[G1,G2,G3]": "patient/quadratic_kappa",
    "bag_task=multilabel bags.findings=[necrosis,lymphocytes] bags.columns=[label.necrosis,label.lymphocytes]":
        "patient/macro_auroc",
    "bag_task=regression bags.columns=[necrotic_share]": "patient/r2",
    "bag_task=cox step=cached": "patient/c_index",
    "bag_task=discrete_hazard": "patient/c_index",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the slides of twelve patients by a random tower with tiles of 64 microns."""
    folder = tmp_path_factory.mktemp("slides")
    entry = plain_vit(folder / "tower")
    entry.write_text(entry.read_text().replace("resolution: 1.0", "resolution: 2.0"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIVIUM_CACHE", str(folder / "cache"))
        keys = [f"encoder={entry}", "cohort=whole_slides", FEW, f"out={folder / 'features'}", f"output.root={folder}"]
        assert main("pathology", "embed", keys) == 0
    return folder


def test_embed_makes_the_cohort_that_it_is_asked_for(place: Path) -> None:
    found = EmbeddedFeatures().find(place / "features")
    (made,) = (place / "cache").rglob("manifest.csv")
    assert len(found) == len(made.read_text().splitlines()) - 1
    bag = EmbeddedFeatures().read(*next(iter(found.items()))[::-1])
    assert bag.tile_size == 64
    assert 90 < len(bag) < 120


@pytest.mark.parametrize("choice", TASKS)
def test_every_task_learns_from_the_same_slides(
    choice: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_CACHE", str(place / "cache"))
    keys = ["experiment=slides", "seed=0", FEW, f"bags.features={place / 'features'}", f"output.root={tmp_path}"]
    short = ["output.id=run", "schedule.steps=2", "schedule.warmup_steps=1"]
    assert main("pathology", "train", [*keys, *short, *choice.split()]) == 0
    results = read_results(tmp_path / "pathology" / "train" / "slides" / "run" / "0")
    figures = {figure.name: figure for figure in results.figures}
    figure = figures[TASKS[choice]]
    assert figure.unit == "patient"
    assert figure.note.startswith("synthetic")
    assert "mean_of_instances" in figure.controls
    assert ("region/coverage" in figures) == (choice == ""), "outlines are those of the class"
    if choice == "":
        assert results.details["region"]["prevalence"]["most"] <= 0.1
        assert {"random", "centre"} <= set(figures["region/coverage"].controls)
