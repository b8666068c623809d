"""Claims about mistakes in a table: they are told before torch is imported and leave nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from core.data.manifest import Manifest
from core.run.tables import needed, read_manifest

ASK = """
import contextlib, io, json, sys
from core.run.entry import main

found = []
for arguments in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        status = main("pathology", "train", arguments)
    found.append((status, said.getvalue(), sorted({"torch", "lightning", "timm", "open_clip"} & set(sys.modules))))
print(json.dumps(found))
"""
TABLES = {
    "empty": ("path,caption\n", "has no rows"),
    "column": ("picture,caption\na.png,a disc\n", "the column 'path' is missing"),
    "caption": ("path,caption\na.png,a disc\nb.png,\n", "1 of 2 pictures have no caption"),
    "gone": ("path,caption\nx.png,a disc\n", "x.png' does not exist"),
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def test_a_mistake_in_a_table_is_told_before_anything_heavy_is_imported(pictures: Path) -> None:
    asked = []
    for name, (content, _) in TABLES.items():
        (pictures / f"{name}.csv").write_text(content)
        asked.append([f"manifest={name}.csv", "output.root=out"])
    good = "path,caption,label\na.png,a disc,disc\nb.png,a ring,ring\n"
    (pictures / "good.csv").write_text(good)
    other = "++data.external={manifest: column.csv, columns: {}, resolution: null, classes: null}"
    asked.append(["manifest=good.csv", other, "output.root=out"])
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(asked)], cwd=pictures, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    words = [words for _, words in TABLES.values()]
    for (status, said, heavy), expected in zip(found, [*words, "column.csv"], strict=True):
        assert (status, heavy) == (2, []), said
        assert expected in said
        assert "Traceback" not in said
    assert not (pictures / "out").exists()


def test_only_pairs_need_captions() -> None:
    cfg = OmegaConf.create({"trivium": {"verb": "train"}, "data": {"captions": {"source": "caption"}}})
    assert needed(cfg) == "caption"
    assert needed(OmegaConf.merge(cfg, {"road": "bags"})) is None
    assert needed(OmegaConf.merge(cfg, {"data": {"captions": {"source": "both"}}})) is None
    assert needed(OmegaConf.merge(cfg, {"trivium": {"verb": "embed"}})) is None


def test_a_table_is_read_once_and_again_when_it_changes(pictures: Path) -> None:
    table = pictures / "pairs.csv"
    table.write_text("path,caption\na.png,a disc\n")
    first = read_manifest(table)
    assert read_manifest(table) is first
    table.write_text("path,caption\na.png,a disc\nb.png,a ring\n")
    assert read_manifest(table).sha256 == Manifest.read(table).sha256 != first.sha256
