"""The notebooks as a reader runs them. ``python -m tests.notebooks`` trains anew and stores them with their outputs."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from core.files import atomic_write

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "notebooks"
NAMES = ("one_run.ipynb", "a_sweep.ipynb")
# what a_sweep.ipynb says; the control is in neither notebook
SWEEP = ("-m", "schedule.steps=75,150,300", "evaluation.controls.resnet18=null")
LARGEST_PX = 800


def execute(name: str, workplace: Path) -> NotebookNode:
    """Runs a notebook from start to end on the runs below ``workplace/outputs``, in that folder."""
    notebook = nbformat.read(FOLDER / name, as_version=4)
    paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"TRIVIUM_OUTPUTS": str(workplace / "outputs"), "PYTHONPATH": paths}
    resources = {"metadata": {"path": str(workplace)}}
    NotebookClient(notebook, timeout=600, resources=resources, record_timing=False).execute(env=environment)
    return notebook


def tidy(notebook: NotebookNode) -> None:
    """Leaves what a reader wants to see: no progress, no version of Python, pictures as small PNG."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            data = output.get("data", {})
            if output.get("name") == "stderr" or (output.output_type == "display_data" and "image/png" not in data):
                continue  # bars of progress are drawn as text or HTML
            if "image/png" in data:
                data["image/png"] = _smaller(data["image/png"])
                data.pop("image/jpeg", None)
            kept.append(output)
        cell.outputs = kept


def _smaller(png: str) -> str:
    """The picture, no wider or higher than a page shows it."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as read:
        picture = read.convert("RGB")
    picture.thumbnail((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        workplace = Path(name)
        os.environ["TRIVIUM_CACHE"] = str(workplace / "cache")
        paths = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "domains.pathology.train", *SWEEP]
        subprocess.run(command, cwd=workplace, env=os.environ | {"PYTHONPATH": paths}, check=True)
        for notebook_name in NAMES:
            notebook = execute(notebook_name, workplace)
            tidy(notebook)
            with atomic_write(FOLDER / notebook_name) as temporary:
                nbformat.write(notebook, temporary)
            print(f"{notebook_name}: {(FOLDER / notebook_name).stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
