"""Claims about ``dry_run=true``: it counts, names and estimates near the truth, and leaves nothing but its state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from core.run.compare import run as compare
from core.run.entry import main
from tests.core.evaluation.made import made_run

OUTSIDE = Path(__file__).parents[2] / "outside"
KEPT = ["config.yaml", "failures.csv", "status.csv", "status.json", "versions.json"]


def values(printed: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in printed.splitlines() if ": " in line)


def test_training_is_timed_and_its_size_is_that_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(OUTSIDE))
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))
    from toy.microscopy.phantom import make

    manifest = make(tmp_path / "pictures", count=48)
    (manifest.parent / "3.png").write_bytes(b"broken")
    keys = ["schedule.steps=2", "schedule.warmup_steps=1", "data.batch_size=8", "data.split.folds=3",
            "data.split.fold=0", "evaluation.controls.resnet18=null", "evaluation.controls.simple_features=null",
            f"manifest={manifest}", f"output.root={tmp_path}"]  # fmt: skip
    below = tmp_path / "toy.microscopy" / "train" / "default"

    assert main("toy.microscopy", "train", ["dry_run=true", "output.id=dry", *keys]) == 3
    printed = capsys.readouterr().out
    found = values(printed)
    assert "3.png: refused" in printed
    assert found["steps"] == "2"
    assert 0 < float(found["hours"]) < 0.1
    assert float(found["hours"]) == pytest.approx(2 * float(found["step_seconds"]) / 3600, rel=0.02)
    assert sorted(path.name for path in (below / "dry").iterdir()) == KEPT  # no splits, no weights
    assert json.loads((below / "dry" / "status.json").read_text())["state"] == "dry_run"

    assert main("toy.microscopy", "train", ["output.id=real", *keys]) == 3
    capsys.readouterr()
    assert main("toy.microscopy", "evaluate", ["dry_run=true", f"run={below / 'real'}", f"output.root={tmp_path}"]) == 3
    counted = values(capsys.readouterr().out)
    assert int(counted["test_pictures"]) + int(counted["train_pictures"]) < 48
    assert counted["evaluators"] == "zero_shot probe retrieval metadata"
    sizes = {path.name: path.stat().st_size for path in (below / "real").iterdir() if path.is_file()}
    taken = 2 * sizes["last.ckpt"] + sizes["model.safetensors"]
    assert float(found["gb"]) * 1e9 == pytest.approx(taken, rel=0.05)


def test_a_comparison_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        for rate in (0.1, 0.2):
            folder = tmp_path / "runs" / f"{rate}-{seed}"
            made_run(folder, seed=seed, accuracy=0.5 + rate, config={"optimiser": {"lr": rate}})
    out = tmp_path / "out"
    cfg = {"runs": str(tmp_path / "runs"), "compare": {"baseline": None}, "dry_run": True}
    assert compare(OmegaConf.create(cfg), out) == 0
    found = values(capsys.readouterr().out)
    assert {name: found[name] for name in ("runs", "arms", "factors", "unfinished")} == {
        "runs": "4",
        "arms": "2",
        "factors": "1",
        "unfinished": "0",
    }
    assert not out.exists()
