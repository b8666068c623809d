"""Claims about a run after it ended: it is evaluated and loaded from anywhere, also one of a package outside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import core
from core.evaluation.tables import read_results
from core.run.entry import main
from core.types import UserError

OUTSIDE = Path(__file__).parents[2] / "outside"
SHORT = ["schedule.steps=2", "schedule.warmup_steps=1", "data.batch_size=16", "evaluation.controls.resnet18=null",
         "evaluation.controls.simple_features=null"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of a domain outside of the suite, begun with relative paths in a folder of its own."""
    root = tmp_path_factory.mktemp("later")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(OUTSIDE), *sys.path])
        patch.setenv("TRIVIUM_CACHE", str(root / "cache"))
        patch.delenv("TRIVIUM_ALLOW", raising=False)
        from toy.microscopy.phantom import make

        make(root / "begun" / "pictures", count=64)
        patch.chdir(root / "begun")
        assert main("toy.microscopy", "train", ["manifest=pictures/manifest.csv", "output.id=one", *SHORT]) == 0
        yield root / "begun" / "outputs" / "toy.microscopy" / "train" / "default" / "one"


def test_a_run_is_evaluated_from_another_folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OmegaConf.load(trained / "config.yaml").manifest == str(trained.parents[4] / "pictures" / "manifest.csv")
    monkeypatch.chdir(tmp_path)
    assert main("toy.microscopy", "evaluate", [f"run={trained}", "output.id=again"]) == 0
    again = tmp_path / "outputs" / "toy.microscopy" / "evaluate" / "default" / "again"
    assert (again / "items.parquet").read_bytes() == (trained / "items.parquet").read_bytes()
    assert read_results(again).figures


def test_a_run_of_a_package_outside_is_loaded_when_the_caller_allows_it(trained: Path) -> None:
    picture = trained.parents[4] / "pictures" / "0.png"
    with pytest.raises(UserError, match=r"toy\.microscopy\.reader\.PictureReader.*not on the list"):
        core.load(trained).embed_images([picture], resolution=1.0)
    model = core.load(trained, allow=["toy"])
    assert model.embed_images([picture], resolution=1.0).shape == (1, model.encoder.embed_dim)
    with pytest.raises(UserError, match="not on the list"):  # allowed to that model, and to nothing else
        core.load(trained).embed_images([picture], resolution=1.0)
