"""Claims about a run after it ended: it is evaluated and loaded from anywhere, also one of a package outside."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from core.evaluation.tables import read_results
from core.run.entry import main

OUTSIDE = Path(__file__).parents[2] / "outside"
SHORT = ["schedule.steps=2", "schedule.warmup_steps=1", "data.batch_size=16", "evaluation.resnet18=null",
         "evaluation.simple_features=false"]  # fmt: skip


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
