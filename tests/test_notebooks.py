"""The notebooks run from start to end, as a reader would run them, and are stored as they came out."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.notebooks import FOLDER, NAMES, execute


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


@pytest.mark.parametrize("name", NAMES)
def test_runs_from_start_to_end(name: str, workplace: Path) -> None:
    notebook = execute(name, workplace)
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert any("image/png" in output["data"] for output in shown)


@pytest.mark.parametrize("name", NAMES)
def test_is_stored_with_what_it_showed_and_nothing_of_the_machine_that_ran_it(name: str) -> None:
    notebook = nbformat.read(FOLDER / name, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any("execution" in cell.metadata for cell in code)  # times
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output
        data = {kind: text for kind, text in output.get("data", {}).items() if "image" not in kind}
        for text in (output.get("text", ""), *data.values()):
            assert not re.search(r"(?<![\w.])(/[\w.-]+){2,}|[A-Z]:\\|━", text), text  # absolute paths, progress


def test_both_are_small_enough_for_a_repository() -> None:
    assert sum((FOLDER / name).stat().st_size for name in NAMES) < 2**20
