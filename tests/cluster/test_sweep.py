"""Claims about sweeps on a cluster, on a real one-node SLURM: ``pytest -m cluster tests/cluster``."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    small = [
        "schedule.steps=3",
        "schedule.warmup_steps=1",
        "evaluation.controls.resnet18=null",
        "data.phantom.patients=12",
    ]
    done = sweep(cluster, tmp_path, "train", "seed=0,1", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = only_run(tmp_path / "outputs", "train")
    for number in range(2):
        assert (folder / str(number) / "model.safetensors").is_file()
        assert OmegaConf.load(folder / str(number) / "config.yaml").seed == number


def test_a_job_out_of_time_is_requeued_and_goes_on_in_its_folder(cluster: dict[str, str], tmp_path: Path) -> None:
    """SLURM holds a requeued job back for about two minutes."""
    steps = 200
    keys = [f"schedule.steps={steps}", "schedule.warmup_steps=1", "data.phantom.patients=12", "seed=0",
            "evaluation.controls.resnet18=null", "trainer.checkpoint_every=100000"]  # fmt: skip
    command = [sys.executable, "-m", "domains.pathology.train", "-m", *keys, *PRESET]
    with subprocess.Popen(
        command, cwd=tmp_path, env=cluster, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as sweep:
        try:
            folder = _wait_for(
                lambda: next(tmp_path.glob("outputs/pathology/train/default/*/0/metrics.csv"), None)
            ).parent
            _wait_for(lambda: len((folder / "metrics.csv").read_text().splitlines()) > 2)
            job = subprocess.run(
                ["squeue", "-h", "-o", "%A"], env=cluster, capture_output=True, text=True
            ).stdout.split()[0]
            subprocess.run(["scancel", "--signal=USR2", job], env=cluster, check=True)
            _wait_for(lambda: json.loads((folder / "status.json").read_text())["state"] == "interrupted")
            said, _ = sweep.communicate(timeout=500)
        finally:
            sweep.kill()
    assert sweep.returncode == 0, said
    assert json.loads((folder / "status.json").read_text())["state"] == "completed"
    with open(folder / "metrics.csv", newline="") as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(10, steps + 1, 10))
    log = next((folder.parent / ".submitit").rglob("*_log.out")).read_text()
    assert "is requeued and goes on in place" in log
    assert len([path for path in folder.parent.iterdir() if path.name.isdigit()]) == 1


def _wait_for(found: Callable[[], Any], seconds: float = 400) -> Any:
    """The first true value of a function."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.5)
    raise TimeoutError("it did not happen")
