"""A domain and an objective outside of the package: their contracts, and the road from training to comparison."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path

import pytest

OUTSIDE = Path(__file__).parent / "outside"
SHORT = ["schedule.steps=3", "schedule.warmup_steps=1", "data.batch_size=16", "evaluation.controls.resnet18=null"]
# what the owner of restricted data needs to go on with a run; nothing of it is meant to be passed on
INTERNAL = {"config.yaml", "versions.json", "splits.csv", "splits.json", "status.csv", "failures.csv", "status.json"}


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(verb: str, folder: Path, *keys: str) -> int:
    from core.run.entry import main

    return main("toy.microscopy", verb, [f"output.root={folder / 'outputs'}", *keys])


def test_the_toy_reader_keeps_the_contract(toy: Path) -> None:
    from toy.microscopy.phantom import make
    from toy.microscopy.reader import PictureReader

    from core.raster.check import check_reader

    check_reader(PictureReader(), make(toy / "phantom", count=4).parent / "0.png")


def test_the_margin_objective_keeps_the_contract() -> None:
    from mylab.margin import Margin

    from core.objectives.check import check_objective

    check_objective(Margin())


def test_trains_evaluates_and_compares(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", toy, "-m", "seed=0,1", "objective=infonce,siglip", "output.id=sweep", *SHORT) == 0
    sweep = toy / "outputs" / "toy.microscopy" / "train" / "default" / "sweep"
    trained = sweep / "0"
    assert run("evaluate", toy, f"run={trained}", "output.id=again") == 0
    again = toy / "outputs" / "toy.microscopy" / "evaluate" / "default" / "again"
    assert (again / "items.parquet").read_bytes() == (trained / "items.parquet").read_bytes()
    assert (again / "report.html").is_file()
    capsys.readouterr()
    assert run("compare", toy, f"runs={sweep}", "output.id=both") == 0
    assert "undecided" in capsys.readouterr().out


def test_an_evaluator_from_outside_stands_beside_the_others(toy: Path) -> None:
    added = "+evaluation.evaluators.calibration._target_=mylab.calibration.Calibration"
    assert run("train", toy, added, "trivium.allow=[mylab]", "output.id=one", *SHORT) == 0
    from core.evaluation.tables import read_results

    results = read_results(toy / "outputs" / "toy.microscopy" / "train" / "default" / "one")
    figures = {figure.name: figure for figure in results.figures}
    brier = figures["calibration/brier"]
    assert 0 < brier.value < 2
    assert brier.low <= brier.value <= brier.high
    assert brier.n == figures["zero_shot/leaf_accuracy"].n == 60
    table = results.items[results.items["evaluation"] == "calibration"]
    assert table["brier"].mean() == pytest.approx(brier.value)


def test_another_set_is_tested_whole_with_the_classes_of_the_run(toy: Path) -> None:
    assert run("train", toy, "output.id=one", *SHORT) == 0
    trained = toy / "outputs" / "toy.microscopy" / "train" / "default" / "one"
    other = toy / "other"
    shutil.copytree(next((toy / "cache" / "phantoms").iterdir()), other)
    table = (other / "manifest.csv").read_text().splitlines()
    (other / "manifest.csv").write_text("\n".join(line.rpartition(",")[0] for line in table[:41]))  # without splits
    assert run("evaluate", toy, f"run={trained}", f"manifest={other / 'manifest.csv'}", "output.id=other") == 0
    from core.evaluation.tables import read_results

    results = read_results(toy / "outputs" / "toy.microscopy" / "evaluate" / "default" / "other")
    figures = {figure.name: figure for figure in results.figures}
    assert figures["external_zero_shot/leaf_accuracy"].n == 40
    assert figures["zero_shot/leaf_accuracy"].n == 60  # the run's own test split beside it


def test_restricted_data_leave_no_trace_in_what_is_passed_on(toy: Path) -> None:
    from toy.microscopy.phantom import make

    manifest = make(toy / "secret-clinic")
    lines = manifest.read_text().splitlines()
    marked = [f"{line.replace('a small', 'JANE-DOE-CAPTION a small')},JANE-DOE-{row}" for row, line in enumerate(lines)]
    marked[0] = lines[0].replace("group", "patient") + ",group"
    manifest.write_text("\n".join(marked))
    keys = [f"manifest={manifest}", "data.sharing=restricted", "output.id=run", *SHORT]
    assert run("train", toy, *keys) == 0
    folder = toy / "outputs" / "toy.microscopy" / "train" / "default" / "run"
    read = [path for path in folder.rglob("*") if path.is_file() and path.name not in INTERNAL]
    assert {"report.html", "items.parquet", "summary.json", "metrics.csv"} <= {path.name for path in read}
    for path in read:
        content = path.read_bytes()
        assert b"JANE-DOE" not in content, path
        assert b"secret-clinic" not in content, path
    _check_names_stay_secret(folder)


def _check_names_stay_secret(folder: Path) -> None:
    """Opaque names follow from ids and the key alone: nothing in the run folder, its own files included, gives them."""
    import pandas as pd

    from core.data.sharing import opaque, sharing_key

    ids = pd.read_csv(folder / "splits.csv", dtype=str)["id"].tolist()
    items = pd.read_parquet(folder / "items.parquet")
    shown = set(items["id"][items["evaluation"] == "zero_shot"])  # retrieval has ids of captions too
    key = sharing_key()
    assert shown
    assert shown <= {opaque(name, key) for name in ids}
    made_by = json.loads((folder / "splits.json").read_text())
    for word in (b"", *(str(value).encode() for value in made_by.values())):  # the manifest's hash among them
        tried = {opaque(name, word) for name in ids}
        tried |= {hashlib.sha256(word + gap + name.encode()).hexdigest()[:16] for name in ids for gap in (b"", b"\0")}
        assert not tried & shown
    for path in (path for path in folder.rglob("*") if path.is_file()):
        assert not any(form in path.read_bytes() for form in (key, key.hex().encode(), base64.b64encode(key))), path
