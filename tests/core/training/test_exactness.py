"""A run that is killed, or split over ranks, ends where an undisturbed one ends."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One process for all runs of this file: it imports torch once and forks them."""
    folder = tmp_path_factory.mktemp("exact")
    command = [sys.executable, "-m", "tests.core.training.exact", str(folder), "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    log = (folder / "log").read_text() if (folder / "log").is_file() else ""
    assert run.returncode == 0, run.stderr + log
    return folder, json.loads(run.stdout.splitlines()[-1])


def test_five_sigkills_change_nothing(outcome: tuple[Path, dict[str, Any]]) -> None:
    result = outcome[1]
    *kills, end = result["kills"]
    assert [kill["status"] for kill in kills] == [-9] * 5
    assert (result["clean"], end["status"]) == (0, 0)
    writing = [kill for kill in kills if kill["when"] == "writing"]
    assert len(writing) == 1
    assert writing[0]["litter"] == 1, "the kill did not hit a checkpoint being written"
    assert result["model.safetensors"], "the final weights differ"
    assert result["updater.pt"], "an updater's state was lost"
    assert result["metrics.csv"], "the curves differ"
    assert result["left"] == ["last.ckpt", "metrics.csv", "model.safetensors", "updater.pt"]


def test_the_killed_run_did_learn(outcome: tuple[Path, dict[str, Any]]) -> None:
    with open(outcome[0] / "killed" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [*range(3, 40, 3), 40]
    assert float(rows[-1]["loss"]) < 0.25 * float(rows[0]["loss"])


def test_two_ranks_equal_one(outcome: tuple[Path, dict[str, Any]]) -> None:
    """Gradient norms too: Adam would hide a wrong scale of the gradient from the weights."""
    folder, result = outcome
    assert (result["one"], result["two"]) == (0, 0), (folder / "log").read_text()
    curves = []
    for name in ("one", "two"):
        with open(folder / name / "metrics.csv", newline="") as file:
            curves.append([[float(value) for value in row.values()] for row in csv.DictReader(file)])
        assert len(curves[-1]) == 14
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)
    one, two = (load_file(folder / name / "model.safetensors") for name in ("one", "two"))
    for key, value in one.items():
        assert torch.linalg.vector_norm(value - two[key]) <= 1e-5 * torch.linalg.vector_norm(value), key


def test_a_signal_to_the_process_that_started_the_ranks_stops_all_of_them_at_one_step(
    outcome: tuple[Path, dict[str, Any]],
) -> None:
    folder, result = outcome
    assert result["stopped"] == 0, (folder / "log").read_text()
    steps = {(folder / "stopped" / f"rank{rank}").read_text() for rank in range(2)}
    assert len(steps) == 1
    (step,) = steps
    assert 8 <= int(step) < 40
    assert (
        folder / "stopped" / "said"
    ).read_text() == f"Training was stopped by SIGTERM after optimiser step {step} of 40."
    two, stopped = (load_file(folder / name / "model.safetensors") for name in ("two", "stopped"))
    assert all(torch.equal(value, stopped[key]) for key, value in two.items())
