"""The notebooks run from start to end, as a reader would run them, on runs made here."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two short runs of a sweep, made by the verb itself."""
    from core.run.entry import main

    folder = tmp_path_factory.mktemp("notebooks")
    keys = [
        f"output.root={folder / 'outputs'}",
        "data.phantom.patients=12",
        "schedule.steps=4,8",
        "schedule.warmup_steps=2",
        "evaluation.controls.resnet18=null",
    ]
    assert main("pathology", "train", ["-m", *keys]) == 0
    return folder


@pytest.mark.parametrize("name", ["one_run.ipynb", "a_sweep.ipynb"])
def test_runs_from_start_to_end(name: str, workplace: Path) -> None:
    notebook = nbformat.read(FOLDER / name, as_version=4)
    environment = os.environ | {"TRIVIUM_OUTPUTS": str(workplace / "outputs")}
    previous = dict(os.environ)
    os.environ.update(environment)
    try:
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(workplace)}}).execute()
    finally:
        os.environ.clear()
        os.environ.update(previous)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert any("image/png" in output["data"] for output in shown)
