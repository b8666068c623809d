"""Claims about sweeps on a cluster, on a real one-node SLURM: ``pytest -m cluster tests/cluster``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.cluster.slurm import one_node, unavailable
from tests.core.run.verbs import only_run, tiny_graph

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
PRESET = [
    "hydra/launcher=slurm",
    "hydra.launcher.partition=local",
    "hydra.launcher.timeout_min=10",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=2",
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    reason = unavailable()
    if reason:
        pytest.skip(reason)
    with one_node(tmp_path_factory.mktemp("slurm")) as environment:
        yield {**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def sweep(cluster: dict[str, str], folder: Path, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"domains.pathology.{verb}", "-m", *arguments, *PRESET]
    return subprocess.run(command, cwd=folder, env=cluster, capture_output=True, text=True, timeout=540)


def test_a_sweep_is_one_array_whose_failures_do_not_stop_the_others(cluster: dict[str, str], tmp_path: Path) -> None:
    graph = tiny_graph(tmp_path / "a (b), c")
    done = sweep(cluster, tmp_path, "knowledge", f"knowledge.path={graph}", "knowledge.prefix=A,NONE,null")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "3 (2 done, 1 failed)" in done.stdout
    folder = only_run(tmp_path / "outputs")
    states = [json.loads((folder / str(number) / "status.json").read_text()) for number in range(3)]
    assert [state["state"] for state in states] == ["completed", "failed", "completed"]
    assert OmegaConf.load(folder / "0" / "config.yaml").knowledge.path == str(graph)
    submitted = next((folder / ".submitit").rglob("*.sh")).read_text()
    assert "--array=0-2" in submitted
    assert "--signal=USR2@" in submitted


def test_training_runs_on_the_cluster(cluster: dict[str, str], tmp_path: Path) -> None:
    small = ["schedule.steps=3", "schedule.warmup_steps=1", "evaluation.controls.resnet18=null", "data.phantom.patients=12"]
    done = sweep(cluster, tmp_path, "train", "seed=0,1", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = only_run(tmp_path / "outputs", "train")
    for number in range(2):
        assert (folder / str(number) / "model.safetensors").is_file()
        assert OmegaConf.load(folder / str(number) / "config.yaml").seed == number
