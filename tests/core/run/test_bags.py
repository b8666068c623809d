"""The road of bags, from feature files to figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file

from core.evaluation.tables import read_results
from core.run.bags import slides_of
from core.run.compose import CONF
from core.run.entry import main
from core.run.tables import read_manifest
from tests.core.data.cohort import DATA, needs_data
from tests.core.run.bag_cohort import write_cohort, write_slide_features

SHORT = ["schedule.steps=60", "schedule.warmup_steps=5", "optimiser.lr=0.003", "aggregator.hidden=[16]"]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder)
    return folder


def train(cohort: Path, out: Path, *keys: str) -> tuple[int, Path]:
    given = [f"manifest={cohort / 'slides.csv'}", f"bags.features={cohort / 'features'}", f"output.root={out}"]
    status = main("domains.pathology", "train", ["experiment=bags", "output.id=run", *given, *SHORT, *keys])
    return status, out / "pathology" / "train" / "bags" / "run"


def test_a_planted_tile_is_found_beside_the_mean_of_instances(cohort: Path, tmp_path: Path) -> None:
    status, run = train(cohort, tmp_path)
    assert status == 0
    results = read_results(run)
    figures = {figure.name: figure for figure in results.figures}
    area = figures["patient/macro_auroc"]
    assert area.n == area.units == 12
    assert area.low > 0.5
    assert "mean_of_instances" in area.controls
    assert results.details["patient"]["threshold"] is not None
    assert (run / "report.html").is_file()


def test_tiles_that_contribute_most_cover_the_outlined_region(cohort: Path, tmp_path: Path) -> None:
    keys = ["+evaluator@evaluation.bags.regions=bag_regions", "aggregator=gated_abmil", "schedule.steps=150"]
    status, run = train(cohort, tmp_path, *keys)
    assert status == 0
    results = read_results(run)
    items = results.items_of("region")
    slides = {row["path"]: int(row["tiles"]) for row in _rows(run / "status.csv")}
    for _, row in items.iterrows():  # two slides, three tiles of each: an outline read in another frame has others
        tiles = [slides[f"{row['id']}s{slide}"] for slide in range(2)]
        assert row["prevalence"] == pytest.approx(6 / sum(tiles))
    coverage = next(figure for figure in results.figures if figure.name == "region/coverage")
    assert coverage.value > 3
    assert coverage.controls["random"] == pytest.approx(1)
    assert coverage.controls["centre"] < 1  # the planted tiles are at the left edge


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_survival_by_cox_needs_whole_batches_and_ranks_patients(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, run = train(cohort, tmp_path, "bag_task=cox", "step=plain")
    assert status == 0
    assert "normal" not in capsys.readouterr().out  # a label that is not learned is not counted
    index = next(figure for figure in read_results(run).figures if figure.name == "patient/c_index")
    assert index.value > 0.65  # tumours have the event first; twelve patients leave a wide interval
    assert index.controls["chance"] == 0.5
    assert {"high risk", "low risk"} >= set(pd.read_csv(run / "figures" / "survival.csv")["group"])
    assert (run / "figures" / "survival.pdf").is_file()


def test_a_slide_without_features_is_named_and_the_run_goes_on(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = (cohort / "slides.csv").read_text() + "p0s9.svs,p0s9,p0,train,normal,50,1\n"
    (cohort / "p0s9.svs").write_text("another")
    (cohort / "more.csv").write_text(table)
    status, run = train(cohort, tmp_path, f"manifest={cohort / 'more.csv'}")
    assert status == 3
    assert "p0s9" in (run / "failures.csv").read_text()
    assert "no features" in (run / "failures.csv").read_text()
    assert "refused: p0s9: slide 'p0s9' has no features" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [["path", "id"], ["path"]])
@pytest.mark.parametrize("where", ["absolute", "below", "link"])
def test_features_are_found_by_the_end_of_a_path(tmp_path: Path, columns: list[str], where: str) -> None:
    """``embed`` names features below what its slides have in common; a table may say more, or less, of a path."""
    slides = tmp_path / "data" / "cohort"
    (slides / "a").mkdir(parents=True)
    (tmp_path / "raw").symlink_to(slides)
    parts = {"absolute": str(slides), "below": "data/cohort", "link": "raw"}
    lines = [",".join([*columns, "group"])]
    for name in ("a/one", "two"):
        (slides / f"{name}.svs").write_text(name)
        row = {"path": f"{parts[where]}/{name}.svs", "id": f"case {name}"}
        lines.append(",".join([*(row[column] for column in columns), name]))
        feature = tmp_path / "features" / f"{name}.svs.h5"
        feature.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(feature, "w") as file:
            file.attrs["schema_version"] = 1
    (tmp_path / "slides.csv").write_text("\n".join(lines) + "\n")
    manifest = read_manifest(tmp_path / "slides.csv", pictures=False)
    layout = {"_target_": "core.mil.features.EmbeddedFeatures"}
    cfg = OmegaConf.create({"bags": {"layout": layout, "features": str(tmp_path / "features")}})
    found = slides_of(cfg, manifest).files
    assert [path.name for _, path in found.values()] == ["one.svs.h5", "two.svs.h5"]


def test_what_a_bag_is_must_be_known(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(cohort, tmp_path, "bags.of=slide")[0] == 2
    assert "bags.of is 'slide'" in " ".join(capsys.readouterr().err.split())


def relabelled(cohort: Path, folder: Path, **columns: object) -> str:
    """``manifest=`` of the cohort with other columns, functions of its table."""
    table = pd.read_csv(cohort / "slides.csv")
    table["path"] = [str(cohort / path) for path in table["path"]]
    table.assign(**columns).to_csv(folder / "slides.csv", index=False)
    return f"manifest={folder / 'slides.csv'}"


def test_one_class_alone_is_refused(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = relabelled(cohort, tmp_path, label=lambda rows: rows["label"].where(rows["split"] == "test", "normal"))
    for task in ([], ["bag_task=ordinal", "bags.classes=[normal, tumour]"]):
        assert train(cohort, tmp_path / str(len(task)), one, *task)[0] == 2
        assert "every training bag with a label is 'normal'" in " ".join(capsys.readouterr().err.split())


def test_a_grade_or_a_finding_that_cannot_be_learned_is_named(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["schedule.steps=1", "schedule.warmup_steps=0"]
    assert train(cohort, tmp_path / "grades", "bag_task=ordinal", "bags.classes=[normal, odd, tumour]", *short)[0] == 0
    assert "warn: no training bag has the label odd" in capsys.readouterr().out
    findings = {"label.a": 1, "label.b": lambda rows: (rows["split"] == "test") * 1, "label.c": [0, 1, 1] * 24}
    table = relabelled(cohort, tmp_path, **findings)
    named = ["bag_task=multilabel", "bags.findings=[a, b, c]", "bags.columns=[label.a, label.b, label.c]"]
    assert train(cohort, tmp_path / "findings", table, *named, *short)[0] == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "training bag has" in line]
    assert said == ["warn: every training bag has the finding a", "warn: no training bag has the finding b"]


def test_grades_must_be_named(cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(cohort, tmp_path, "bag_task=ordinal")[0] == 2
    assert "bags.classes is not set" in (said := " ".join(capsys.readouterr().err.split()))
    assert "grades, lowest first" in said


@needs_data
@pytest.mark.parametrize("name", ["musk1", "elephant", "tiger"])
def test_benchmarks_of_instances_are_read_standardised_and_pooled(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_DATA", str(DATA.parent))
    keys = [f"experiment={name}", f"output.root={tmp_path}", "output.id=run", "schedule.steps=2"]
    keys += ["schedule.warmup_steps=1", "seed=0", "data.split.fold=0,1"]
    assert main("domains.pathology", "train", keys) == 0
    run = tmp_path / "pathology" / "train" / name / "run"
    pooled = json.loads((run / "pooled.json").read_text())
    figures = {figure["name"]: figure for figure in (pooled["figures"] if isinstance(pooled, dict) else pooled)}
    bags = {"musk1": 92, "elephant": 200, "tiger": 200}[name]
    assert 2 * bags // 10 <= figures["bag/leaf_accuracy"]["n"] <= 2 * bags // 10 + 2
    assert figures["bag/leaf_accuracy"]["unit"] == "bag"
    weights = load_file(run / "0" / "model.safetensors")
    assert (weights["aggregator.mean"] != 0).any()


AGGREGATORS = sorted(path.stem for path in (CONF / "aggregator").glob("*.yaml"))
OTHERS = ("bag_task=discrete_hazard", "sampler=token_budget", "step=token_groups", "step=cached step.micro_batch=4")


@pytest.mark.parametrize("choice", [*(f"aggregator={name}" for name in AGGREGATORS), *OTHERS])
def test_every_choice_for_bags_takes_a_step_and_is_evaluated(cohort: Path, tmp_path: Path, choice: str) -> None:
    keys = [f"manifest={cohort / 'slides.csv'}", f"bags.features={cohort / 'features'}", f"output.root={tmp_path}"]
    one = ["experiment=bags", "schedule.steps=1", "schedule.warmup_steps=0", "bags.prepare_tiles=300"]
    assert main("domains.pathology", "train", [*one, *keys, *choice.split()]) == 0


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_bag_that_the_aggregator_cannot_take_is_refused_before_training(
    split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_cohort(tmp_path, patients=8)  # one of each class in val, and in test
    patient = {"val": "p4", "test": "p6"}[split]
    write_slide_features(tmp_path, f"{patient}s0", np.ones((61, 8), np.float16))
    keys = [f"manifest={table}", f"bags.features={tmp_path / 'features'}", "aggregator=transmil"]
    keys += ["aggregator.max_tiles=60", "bags.of=id", "schedule.steps=1", "schedule.warmup_steps=0"]
    given = ["experiment=bags", f"output.root={tmp_path}", "output.id=run"]
    assert main("domains.pathology", "train", [*given, *keys]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"bag '{patient}s0' has 61 tiles and TransMIL takes 60. aggregator.max_tiles" in said
    run = tmp_path / "pathology" / "train" / "bags" / "run"
    assert not list(run.rglob("*.safetensors")) + list(run.rglob("*.ckpt"))
    assert not (run / "metrics.csv").exists()


def test_a_sharing_that_is_not_known_is_refused(
    cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(cohort, tmp_path, "data.sharing=Restricted")[0] == 2
    assert "data.sharing is 'Restricted'" in " ".join(capsys.readouterr().err.split())


def test_restricted_bags_have_opaque_names(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))
    status, run = train(cohort, tmp_path, "data.sharing=restricted", "schedule.steps=1", "schedule.warmup_steps=0")
    assert status == 0
    items = read_results(run).items
    assert not set(items["id"]) & {f"p{patient}" for patient in range(48)}
    assert items["id"].nunique() == 12
