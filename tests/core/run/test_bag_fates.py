"""``predict`` with runs over bags when something goes wrong: whose fate it is, and what is on disk by then."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from core.mil.aggregators.mean import MeanPooling
from core.mil.bags import Bag
from core.mil.features import EmbeddedFeatures
from core.mil.tasks.classification import BagClassification
from core.run import bag_maps, bag_predict, bag_tables
from core.run.bag_facts import Facts
from core.run.bag_member import Member
from core.run.bag_model import BagModel
from core.types import UserError
from tests.core.raster.pictures import noise, shrink, write_slide
from tests.core.run.bag_cohort import WIDTH, write_slide_features

TILES, SIDE = 4, 128
PATIENTS = ("one", "two", "three")


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """Three patients with a slide each, and a model of theirs."""
    torch.manual_seed(0)
    task = BagClassification(MeanPooling(WIDTH, ()), 2)
    facts = Facts(WIDTH, "toy@1", "um", ("normal", "tumour"), 0.5, None, None)
    layout = {"_target_": "core.mil.features.EmbeddedFeatures"}
    config = OmegaConf.create({"bags": {"features": None, "layout": layout, "of": "group"}})
    model = BagModel((Member(Path(), task, facts),), config)
    monkeypatch.setattr(bag_predict, "load_bags", lambda run: model)
    picture = noise(SIDE, SIDE * TILES)
    lines = ["path,id,group"]
    for name in PATIENTS:
        write_slide(tmp_path / f"{name}.svs", [picture, shrink(picture, 4)], 0.5)
        write_slide_features(tmp_path, name, np.random.default_rng(0).normal(size=(TILES, WIDTH)).astype(np.float16))
        lines.append(f"{name}.svs,{name},{name}")
    (tmp_path / "new.csv").write_text("\n".join(lines) + "\n")
    return OmegaConf.create(
        {
            "run": "it", "input": None, "prompts": None, "manifest": str(tmp_path / "new.csv"),
            "bags": {"features": str(tmp_path / "features"), "layout": None},
            "reader": {"_target_": "domains.pathology.readers.SlideReader"},
            "areas": {"_target_": "domains.pathology.outputs.qupath.QuPathGeoJson"},
            "allow_failures": 0, "dry_run": False, "debug": False,
        }
    )  # fmt: skip


def failing(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, at: int, error: BaseException) -> None:
    """The call of this number (from 1 on) raises an error."""
    real: Callable[..., Any] = getattr(owner, name)
    calls: list[None] = []

    def call(*given: Any, **known: Any) -> Any:
        calls.append(None)
        if len(calls) == at:
            raise error
        return real(*given, **known)

    monkeypatch.setattr(owner, name, call)


def tables(out: Path) -> tuple[list[str], dict[str, str]]:
    """Patients that are predicted, and the status of every slide."""
    fates = pd.read_csv(out / "status.csv").set_index("path")["status"]
    return pd.read_csv(out / "predictions.csv")["group"].tolist(), {str(name): str(fates[name]) for name in fates.index}


@pytest.mark.parametrize(("owner", "name"), [(EmbeddedFeatures, "read"), (BagModel, "outcome"), (BagModel, "explain")])
def test_what_no_one_foresaw_of_a_patient_is_its_fate_and_it_is_predicted_or_refused_never_both(
    owner: Any, name: str, new: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        failing(patch, owner, name, 2, RuntimeError("odd numbers"))
        assert bag_predict.run(new, out) == 3
    assert tables(out) == (["one", "three"], {"one": "ok", "two": "refused", "three": "ok"})
    assert "unexpected RuntimeError: odd numbers" in (out / "failures.csv").read_text()

    for debug, error in ((True, RuntimeError("odd numbers")), (False, KeyboardInterrupt())):
        new.debug = debug
        with monkeypatch.context() as patch:
            failing(patch, owner, name, 2, error)
            with pytest.raises(type(error)):
                bag_predict.run(new, tmp_path / str(debug))


def test_a_patient_that_cannot_be_explained_has_no_row(
    new: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, BagModel, "explain", 1, UserError("too many tiles"))
    assert bag_predict.run(new, tmp_path / "out") == 3
    assert tables(tmp_path / "out") == (["two", "three"], {"one": "refused", "two": "ok", "three": "ok"})


def test_what_was_predicted_before_a_kill_is_on_disk(
    new: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(bag_tables, "EVERY", 0.0)
    failing(monkeypatch, BagModel, "outcome", 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bag_predict.run(new, out)
    assert tables(out) == (["one", "two"], {"one": "ok", "two": "ok"})


def test_tables_are_not_written_for_every_patient(tmp_path: Path) -> None:
    found = bag_tables.Tables(tmp_path, with_words=True)
    found.write_when_due()
    assert not list(tmp_path.iterdir())
    found.write()
    assert pd.read_csv(tmp_path / "words.csv").columns.tolist() == list(bag_tables.WORDS)
    assert pd.read_csv(tmp_path / "predictions.csv").empty


def test_a_full_disk_ends_the_run_and_a_slide_that_cannot_be_read_does_not(
    new: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.svs").write_text("no slide")

    def misplaced(bag: Bag, raster: Any) -> Any:
        if bag.id == "two":
            raise UserError("tiles lie outside of the slide")
        return bag_maps.place(bag, raster)

    with monkeypatch.context() as patch:
        patch.setattr(bag_predict, "place", misplaced)
        assert bag_predict.run(new, tmp_path / "out") == 0
    assert [path.name for path in sorted((tmp_path / "out" / "maps").iterdir())] == ["three.geojson", "three.png"]
    told = pd.read_csv(tmp_path / "out" / "status.csv").set_index("path")["no_map"]
    assert told["one"]
    assert "outside" in told["two"]

    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(UserError, match=r"cannot write .*two\.png'.* No space left"):
        bag_predict.run(new, tmp_path / "full")
