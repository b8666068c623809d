"""The files of a cohort: real slides, true tables, equal for an equal seed, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from core.files import sha256
from core.knowledge.linking import Linker
from core.knowledge.load import load_graph
from core.raster.check import check_reader
from core.types import Resolution, UserError
from domains.pathology.phantom import folder as phantom
from domains.pathology.phantom import make
from domains.pathology.phantom.cohort import plan
from domains.pathology.phantom.diseases import concepts, leaves
from domains.pathology.readers import SlideReader
from tests.domains.pathology.phantom.conftest import PATIENTS


def test_an_equal_seed_gives_equal_bytes(cohort: Path, tmp_path: Path) -> None:
    again = make(tmp_path, seed=3, patients=PATIENTS).parent
    files = sorted(path.relative_to(cohort) for path in cohort.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        assert sha256(cohort / file) == sha256(again / file), file


def test_openslide_opens_a_pyramid_of_the_right_scale(cohort: Path) -> None:
    for path in (cohort / "slides").glob("*.tiff"):
        with openslide.OpenSlide(path) as slide:
            assert slide.properties["openslide.vendor"] == "generic-tiff"
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
            assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5)
            assert slide.level_downsamples == (1.0, 2.0, 4.0)
            corner = np.asarray(slide.read_region((0, 0), 0, (8, 8)).convert("RGB"))
            assert corner.min() > 220, "the corner is glass"


def test_the_suite_reads_it(cohort: Path) -> None:
    path = sorted((cohort / "slides").glob("*.tiff"))[0]
    check_reader(SlideReader(), path)
    with SlideReader().open(path) as raster:
        assert isinstance(raster.resolution, Resolution)
        assert raster.resolution.mean == pytest.approx(0.5)


def test_levels_show_the_same_tissue(cohort: Path) -> None:
    with openslide.OpenSlide(next((cohort / "slides").glob("*.tiff"))) as slide:
        full = slide.read_region((0, 0), 0, slide.dimensions).convert("RGB").reduce(4)
        small = slide.read_region((0, 0), 2, slide.level_dimensions[2]).convert("RGB")
    difference = np.abs(np.asarray(full, np.int16) - np.asarray(small, np.int16)).mean()
    assert difference < 6, "JPEG alone"


def test_labels_and_concepts_agree_with_the_ontology(manifest: pd.DataFrame) -> None:
    names = {concept.name: concept for concept in concepts()}
    families = {leaf.concept.id: leaf.family.id for leaf in leaves(True)}
    assert set(manifest["label"]) == {leaf.concept.name for leaf in leaves(True)}
    for label, concept in zip(manifest["label"], manifest["concepts"], strict=True):
        assert concept in ("", names[label].id, families[names[label].id])


def test_linking_the_captions_finds_the_concepts_of_the_table(cohort: Path, manifest: pd.DataFrame) -> None:
    graph = load_graph(str(cohort / "phantom.obo"))
    linker = Linker(graph)
    for caption, concept in zip(manifest["caption"], manifest["concepts"], strict=True):
        found = {mention.concept for mention in linker.link(caption)}
        if not concept:
            assert not found, caption
            continue
        own = graph.index(concept)
        assert own in found, caption
        above = {int(ancestor) for ancestor in graph.ancestors_of(own)}
        assert found <= {own} | above, f"what else is named lies above: {caption}"


def test_no_patient_or_slide_is_in_two_splits(manifest: pd.DataFrame) -> None:
    assert set(manifest["split"]) == {"train", "val", "test"}
    for column in ("group", "slide"):
        assert (manifest.groupby(column)["split"].nunique() == 1).all()
    assert manifest["id"].is_unique


def test_each_class_is_tested(manifest: pd.DataFrame) -> None:
    tested = manifest[manifest["split"] == "test"]["label"].value_counts()
    assert set(tested.index) == {leaf.concept.name for leaf in leaves(True)}
    assert tested.min() >= 4


def test_a_field_of_view_lies_in_the_outline_of_its_lesion(cohort: Path, manifest: pd.DataFrame) -> None:
    for slide, rows in list(manifest.groupby("slide"))[:4]:
        with openslide.OpenSlide(cohort / "slides" / f"{slide}.tiff") as opened:
            size = opened.dimensions
        truth = json.loads((cohort / "truth" / f"{slide}.geojson").read_text())["features"]
        mask = Image.new("L", size, 0)
        for number, feature in enumerate(truth, start=1):
            outline = [tuple(point) for point in feature["geometry"]["coordinates"][0]]
            ImageDraw.Draw(mask).polygon(outline, fill=number)
        names = ["fibrous stroma", *(feature["properties"]["classification"]["name"] for feature in truth)]
        inside = np.asarray(mask)
        for row in rows.itertuples():
            window = inside[row.y : row.y + row.h, row.x : row.x + row.w]
            assert window.shape == (128, 128), "inside of the slide"
            most = np.bincount(window.ravel()).argmax()
            assert names[most] == row.label, row.id
            assert (window == most).mean() > 0.9


def test_there_is_something_to_learn(cohort: Path, manifest: pd.DataFrame) -> None:
    """Not a figure: only that a plain look at colours beats guessing by far and does not settle it."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = []
    for path, rows in manifest.groupby("path", sort=False):
        with openslide.OpenSlide(cohort / str(path)) as slide:
            for row in rows.itertuples():
                pixels = np.asarray(slide.read_region((row.x, row.y), 0, (row.w, row.h)).convert("RGB")) / 255
                features.append([*pixels.mean((0, 1)), *pixels.std((0, 1))])
    table = manifest.sort_values("path", key=lambda column: column.map({p: i for i, p in enumerate(column.unique())}))
    train, test = table["split"] == "train", table["split"] == "test"
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    model.fit(np.array(features)[train], table["label"][train])
    accuracy = model.score(np.array(features)[test], table["label"][test])
    assert 2 / 17 < accuracy < 0.9


def test_both_settings_have_the_same_items(tmp_path: Path) -> None:
    """So that runs on them can be paired: all but looks and words."""
    same = ["path", "id", "slide", "group", "label", "x", "y", "split"]
    plans = plan(PATIENTS, leaves(True), np.random.default_rng((5, 0)))[:2]
    tables = []
    for linked in (True, False):
        made = tmp_path / str(linked)
        made.mkdir()
        phantom._write(made, plans, linked, seed=5)
        tables.append(pd.read_csv(made / "manifest.csv")[same])
    pd.testing.assert_frame_equal(*tables)
    assert sha256(tmp_path / "True" / tables[0]["path"][0]) != sha256(tmp_path / "False" / tables[0]["path"][0])


def test_a_cohort_is_made_once(cohort: Path, cohorts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(phantom, "_write", never)
    assert make(cohorts, seed=3, patients=PATIENTS).parent == cohort
    with pytest.raises(AssertionError, match="drawn again"):
        make(cohorts, seed=4, patients=PATIENTS)


def test_nothing_is_left_of_a_cohort_that_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(phantom.slides, "write", full)
    with pytest.raises(UserError, match="No space left"):
        make(tmp_path, seed=0, patients=PATIENTS)
    assert not list(tmp_path.iterdir())


def test_a_path_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the phantom"):
        make(tmp_path / "file" / "phantoms", patients=PATIENTS)
