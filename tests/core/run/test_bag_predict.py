"""``predict`` with runs over bags: a cross-validated ensemble applied to new slides, and where its pictures point."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
from omegaconf import OmegaConf
from PIL import Image

import core
from core.evaluation.bags import best_threshold
from core.evaluation.tables import read_results
from core.mil.features import FeatureAttributes, read_bag, write_features
from core.mil.tasks.task import Explained
from core.run.bag_maps import Placed, contribution_figure
from core.run.bag_model import BagModel
from core.run.load import load_model
from core.types import UserError, Window
from domains.pathology.readers import SlideReader
from tests.core.raster.pictures import noise, shrink, write_slide
from tests.core.run.test_bags import SHORT, cohort, train  # noqa: F401  # a fixture
from tests.core.run.verbs import run as verb

SIDE, COLUMNS, ROWS = 128, 8, 6  # level-0 pixels of a tile, tiles of the slide
LESION = (6, 1)  # column and row: neither in a middle nor on a diagonal


@pytest.fixture(scope="module")
def sweep(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Three folds of the cohort."""
    root = tmp_path_factory.mktemp("sweep")
    keys = [f"manifest={cohort / 'slides.csv'}", f"bags.features={cohort / 'features'}", f"output.root={root}"]
    keys += ["output.id=cv", "seed=0", "data.split.folds=3", "data.split.fold=0,1,2"]
    assert verb("train", "-m", "experiment=bags", *SHORT, *keys) == 0
    return root / "pathology" / "train" / "bags" / "cv"


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides without labels: one whose planted tile is known, and one of every kind that cannot be used."""
    folder, random = tmp_path_factory.mktemp("new"), np.random.default_rng(5)
    picture = 225 - noise(SIDE * ROWS, SIDE * COLUMNS) // 8  # pale, so that the colours of the map can be read
    x, y = SIDE * LESION[0], SIDE * LESION[1]
    picture[y : y + SIDE, x : x + SIDE] = (90, 20, 120)
    write_slide(folder / "planted.svs", [picture, shrink(picture, 4)], 0.5)
    (folder / "empty.svs").write_text("no slide")
    corners = SIDE * np.array([(column, row) for row in range(ROWS) for column in range(COLUMNS)])
    for name, width, encoder in (
        ("planted", 8, "toy@1"), ("plain", 8, "toy@1"), ("empty", 8, "toy@1"), ("wide", 9, "toy@1"),
        ("foreign", 8, "toy@2"), ("broken", 8, "toy@1"), ("fine", 8, "toy@1"), ("coarse", 8, "toy@1"),
    ):  # fmt: skip
        features = random.normal(size=(len(corners), width))
        if name == "planted":
            features[LESION[1] * COLUMNS + LESION[0], 0] += 12
        attributes = FeatureAttributes(
            name, encoder, "0" * 64, "pooled", "float32", 0.5, 0.5, "test", "um", SIDE * COLUMNS, SIDE * ROWS, 64,
            2.0 if name == "coarse" else 1.0, 0.0, 0.1, len(corners), 1,
        )  # fmt: skip
        write_features(folder / "features" / f"{name}.h5", corners, features.astype(np.float16), attributes)
    with h5py.File(folder / "features" / "broken.h5", "r+") as file:
        file["features"][3, 0] = np.nan
    names = ("planted", "gone", "plain", "empty", "wide", "foreign", "broken", "fine", "coarse")
    groups = ("one", "one", "two", "two", "three", "four", "five", "six", "six")
    lines = [f"{name}.svs,{name},{group}" for name, group in zip(names, groups, strict=True)]
    (folder / "new.csv").write_text("\n".join(["path,id,group", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def predicted(sweep: Path, new: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("predicted")
    keys = [f"run={sweep}", f"manifest={new / 'new.csv'}", f"bags.features={new / 'features'}"]
    assert verb("predict", *keys, f"output.root={root}", "output.id=run") == 3
    return root / "pathology" / "predict" / "default" / "run"


def test_every_patient_is_a_row_and_every_slide_that_cannot_be_used_is_named(predicted: Path, sweep: Path) -> None:
    table = pd.read_csv(predicted / "predictions.csv").set_index("group")
    assert list(table.index) == ["one", "two", "six"]
    assert table["prediction"].tolist() == ["tumour", "normal", "normal"]
    assert table["slides"].tolist() == [1, 2, 1]
    assert table["refused_slides"].tolist() == [1, 0, 1]
    fates = pd.read_csv(predicted / "status.csv").set_index("path")
    assert len(fates) == 9
    refused = fates[fates["status"] == "refused"]["reason"]
    known = {"gone": "no features", "wide": "width 9", "foreign": "toy@2", "broken": "NaN"}
    known["coarse"] = "tiles of 128 um; the run learned from tiles of 64 um"
    assert set(refused.index) == set(known)
    assert all(why in refused[name] for name, why in known.items())
    assert fates.loc["planted", "no_map"] != fates.loc["planted", "no_map"]  # empty
    assert "not there" in fates.loc["plain", "no_map"]
    assert fates.loc["empty", "no_map"]
    assert [path.name for path in sorted((predicted / "maps").iterdir())] == ["planted.geojson", "planted.png"]


def test_what_is_predicted_is_the_mean_of_the_folds_at_the_median_of_their_thresholds(
    predicted: Path, sweep: Path, new: Path
) -> None:
    model = core.load(sweep)
    assert isinstance(model, BagModel)
    bag = read_bag(new / "features" / "planted.h5")
    alone = [core.load(sweep / str(fold)) for fold in range(3)]
    each = [one.predict(bag)["probability.tumour"] for one in alone if isinstance(one, BagModel)]
    row = pd.read_csv(predicted / "predictions.csv").set_index("group").loc["one"]
    assert row["probability.tumour"] == pytest.approx(np.mean(each), rel=1e-6)  # type: ignore[arg-type]
    thresholds = [read_results(sweep / str(fold)).details["patient"]["threshold"] for fold in range(3)]
    assert model.threshold == pytest.approx(np.median(thresholds))
    with pytest.raises(UserError, match="learned from bags"):
        load_model(sweep / "0")


def test_the_planted_tile_is_where_the_table_the_areas_and_the_picture_point(predicted: Path, new: Path) -> None:
    x, y = SIDE * LESION[0], SIDE * LESION[1]
    tiles = pd.read_parquet(predicted / "tiles" / "planted.parquet")
    loudest = tiles.loc[tiles["contribution.tumour"].idxmax()]
    assert loudest[["x", "y", "w", "h"]].tolist() == [x, y, SIDE, SIDE]
    assert loudest["contribution.tumour"] > 0
    assert loudest["weight"] == tiles["weight"].max()
    np.testing.assert_allclose(tiles["contribution.tumour"], -tiles["contribution.normal"], atol=1e-6)

    features = json.loads((predicted / "maps" / "planted.geojson").read_text())["features"]
    lesion = [one for one in features if one["properties"]["classification"]["name"] == "tumour"]
    assert lesion == features  # what hardly says anything is no area
    assert lesion[0]["properties"]["measurements"]["Mean contribution"] > 0
    shape = shapely.union_all([shapely.geometry.shape(one["geometry"]) for one in lesion])
    assert shape.bounds == pytest.approx((x, y, x + SIDE, y + SIDE), abs=1)

    picture = np.asarray(Image.open(predicted / "maps" / "planted.png").convert("RGB")).astype(int)
    windows = [Window(*place) for place in tiles[["x", "y", "w", "h"]].to_numpy(float).tolist()]
    values = tiles[["contribution.normal", "contribution.tumour"]].to_numpy(np.float32)
    placed = Placed(windows, Explained(tiles["weight"].to_numpy(np.float32), values), ("normal", "tumour"))
    with SlideReader().open(new / "planted.svs") as raster:
        figure = contribution_figure(raster.thumbnail(1024).values, placed, raster.resolution, raster.size, "planted")
    figure.canvas.draw()
    axis = figure.axes[1]
    assert axis.get_title() == "contribution to tumour"

    def seen(column: int, row: int) -> tuple[int, int]:
        """Red and blue of the middle of a tile in the written picture."""
        across, up = axis.transData.transform((SIDE * (column + 0.5), SIDE * (row + 0.5)))
        red, _, blue = picture[round(len(picture) - up), round(across)]
        return red, blue

    red, blue = seen(*LESION)
    assert red - blue > 40
    mirrored = [(COLUMNS - 1 - LESION[0], LESION[1]), (LESION[0], ROWS - 1 - LESION[1]), (LESION[1], 5)]
    assert all(red - blue - (r - b) > 40 for r, b in (seen(*tile) for tile in mirrored))
    assert (predicted / "sheets" / "planted.png").stat().st_size > 5000


def test_a_member_without_a_threshold_leaves_two_classes_undecided(sweep: Path, new: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sweep, tmp_path / "cv")
    path = copy / "1" / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "threshold": None}))
    keys = [f"run={copy}", f"manifest={new / 'new.csv'}", f"bags.features={new / 'features'}", "allow_failures=all"]
    assert verb("predict", *keys, f"output.root={tmp_path}", "output.id=run") == 0
    table = pd.read_csv(tmp_path / "pathology" / "predict" / "default" / "run" / "predictions.csv")
    assert table["prediction"].isna().all()
    assert table["probability.tumour"].between(0, 1).all()


def applied(run: Path, cohort: Path, root: Path) -> pd.DataFrame:  # noqa: F811
    """``predictions.csv`` of a run over the slides of the cohort."""
    keys = [f"run={run}", f"manifest={cohort / 'slides.csv'}", f"bags.features={cohort / 'features'}"]
    assert verb("predict", *keys, f"output.root={root}", "output.id=run") == 0
    return pd.read_csv(root / "pathology" / "predict" / "default" / "run" / "predictions.csv").set_index("group")


def test_two_grades_and_findings_are_predicted_at_thresholds_of_the_validation_bags(
    cohort: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, run = train(cohort, tmp_path / "grades", "bag_task=ordinal", "bags.classes=[normal,tumour]")
    threshold = read_results(run).details["patient"]["threshold"]
    table = applied(run, cohort, tmp_path / "grades")
    np.testing.assert_array_equal(table["prediction"] == "tumour", table["probability.tumour"] >= threshold)
    assert f"threshold: {threshold:.6g}" in capsys.readouterr().out

    slides = pd.read_csv(cohort / "slides.csv")
    slides["label.tumour"] = (slides["label"] == "tumour").astype(int)
    slides["label.never"] = 0
    slides.loc[(slides["split"] == "train") & (slides["group"] == "p0"), "label.never"] = 1
    slides.to_csv(cohort / "findings.csv", index=False)
    keys = ["bag_task=multilabel", "bags.findings=[tumour,never]", "bags.columns=[label.tumour,label.never]"]
    _, run = train(cohort, tmp_path / "findings", *keys, f"manifest={cohort / 'findings.csv'}")
    thresholds = json.loads((run / "model.json").read_text())["thresholds"]
    assert thresholds["never"] is None  # no validation bag has it
    table = applied(run, cohort, tmp_path / "findings")
    said = table["probability.tumour"] >= thresholds["tumour"]
    np.testing.assert_array_equal(table["prediction.tumour"] == 1, said)
    assert table["prediction.never"].isna().all()
    assert {"patient/sensitivity.tumour", "patient/specificity.tumour"} <= set(read_results(run).metrics)
    assert "threshold.never: none" in capsys.readouterr().out


def test_a_run_over_single_slides_gives_a_patient_one_row_the_mean_of_its_slides(
    cohort: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    _, run = train(cohort, tmp_path, "bags.of=id")
    table, model = applied(run, cohort, tmp_path), core.load(run)
    assert isinstance(model, BagModel)
    assert table.index.is_unique
    assert table["slides"].to_dict() == {f"p{patient}": 1 + patient % 2 for patient in range(48)}
    for patient, names in (("p1", ("p1s0", "p1s1.svs")), ("p2", ("p2s0",))):
        bags = [read_bag(cohort / "features" / f"{name}.h5") for name in names]
        mean = np.mean([float(model.predict(bag)["probability.tumour"] or 0) for bag in bags])
        assert table.loc[patient, "probability.tumour"] == pytest.approx(mean, rel=1e-6)
        assert table.loc[patient, "tiles"] == sum(map(len, bags))
    threshold = model.decision(whole=True).threshold
    assert threshold is not None
    np.testing.assert_array_equal(table["prediction"] == "tumour", table["probability.tumour"] >= threshold)

    data = pd.read_csv(cohort / "slides.csv").drop_duplicates("group").set_index("group")
    val = table[table.index.map(data["split"]) == "val"]
    truth = (val.index.map(data["label"]) == "tumour").astype(int)
    assert threshold == pytest.approx(best_threshold(val["probability.tumour"], truth), rel=1e-5)

    results = read_results(run)  # the run has figures of slides, and of patients as they are predicted
    figures = {figure.name: figure for figure in results.figures}
    assert [results.details[name]["threshold"] for name in ("bag", "patient")] == [model.threshold, threshold]
    slides, patients = figures["bag/macro_auroc"], figures["patient/macro_auroc"]
    assert (slides.units, patients.n) == (12, 12)
    assert slides.n == sum(1 + int(name[1:]) % 2 for name in set(results.items_of("patient")["id"]))
    told = results.items_of("patient").set_index("id")["probabilities"]
    for name, probabilities in told.items():
        assert probabilities[1] == pytest.approx(table.loc[name, "probability.tumour"], rel=1e-5)
    assert "mean_of_instances" in patients.controls
    assert {path.name for path in (run / "figures").glob("roc*.csv")} == {"roc.csv", "roc_patient.csv"}


def test_runs_that_are_no_ensemble_are_refused_by_name(sweep: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sweep, tmp_path / "cv")
    config = OmegaConf.load(copy / "2" / "config.yaml")
    config.optimiser.lr = 0.5
    OmegaConf.save(config, copy / "2" / "config.yaml")
    with pytest.raises(UserError, match=r"more than seed and fold.*lr=0.5: 2"):
        core.load(copy)
    path = copy / "1" / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "classes": ["normal", "adenoma"]}))
    with pytest.raises(UserError, match=r"'0' and '1' are no ensemble: their classes are normal, tumour and normal"):
        core.load(copy)
    path.unlink()
    with pytest.raises(UserError, match=r"has no model\.json"):
        core.load(copy)


def test_a_dry_run_names_refusals_and_writes_nothing(
    sweep: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [f"run={sweep / '0'}", f"manifest={new / 'new.csv'}", f"bags.features={new / 'features'}"]
    assert verb("predict", *keys, f"output.root={tmp_path}", "output.id=run", "dry_run=true") == 3
    said = capsys.readouterr().out
    assert "refused: wide" in said
    assert "hours:" in said
    assert not (tmp_path / "pathology" / "predict" / "default" / "run" / "predictions.csv").exists()


def test_keys_of_the_other_road_are_refused(
    sweep: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"run={sweep}", f"output.root={tmp_path}", f"manifest={new / 'new.csv'}"]
    assert verb("predict", *given, "prompts=[a, b]") == 2
    assert "learned from bags" in capsys.readouterr().err
    assert verb("predict", *given) == 2
    assert "no features" in capsys.readouterr().err


def test_every_patient_is_out_of_fold_once_in_the_sweep_and_in_compare(sweep: Path, tmp_path: Path) -> None:
    table = pd.read_csv(sweep / "out_of_fold.csv")
    assert table["group"].is_unique
    assert len(table) == 48
    assert table["fold"].value_counts().to_dict() == {0: 16, 1: 16, 2: 16}
    assert (table["label"] == np.where(table["group"].str[1:].astype(int) % 2, "tumour", "normal")).all()
    np.testing.assert_allclose(table["probability.normal"] + table["probability.tumour"], 1, atol=1e-5)
    first = read_results(sweep / "0").items_of("patient").set_index("id")["probabilities"]
    mine = table[table["fold"] == 0].set_index("id")["probability.tumour"]
    assert mine.to_dict() == pytest.approx({name: float(first[name][1]) for name in mine.index}, rel=1e-5)
    curve = pd.read_csv(sweep / "figures" / "out_of_fold_roc.csv")
    assert (curve["n_positive"] + curve["n_negative"] == 48).all()
    assert (sweep / "figures" / "out_of_fold_roc.pdf").is_file()
    assert verb("compare", f"runs={sweep}", f"output.root={tmp_path}", "output.id=run") == 0
    again = pd.read_csv(tmp_path / "pathology" / "compare" / "default" / "run" / "out_of_fold.csv")
    pd.testing.assert_frame_equal(again, table)


def test_a_report_of_bags_has_the_roc_curve_of_its_tested_patients(sweep: Path) -> None:
    curve = pd.read_csv(sweep / "0" / "figures" / "roc.csv")
    assert (curve["n_positive"] + curve["n_negative"] == 16).all()
    area = next(one for one in read_results(sweep / "0").figures if one.name == "patient/macro_auroc").value
    steps = np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"])
    assert steps == pytest.approx(area, abs=1e-6)
    assert (sweep / "0" / "figures" / "roc.pdf").is_file()
    assert ">Curves<" in (sweep / "0" / "report.html").read_text()
