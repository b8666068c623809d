"""Claims about the verb `manifest`, run as its job with a real reader."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from core.data.manifest import Manifest
from core.run.manifest import run
from core.types import UserError
from tests.core.data.cohort import write_cohort

BASE = {
    "input": None,
    "manifest": None,
    "manifest_options": {"columns": None, "pattern": None, "root": None, "table": None, "on": "group"},
    "reader": {"_target_": "domains.pathology.readers.SlideReader"},
    "data": {"resolution": None},
    "dry_run": False,
    "allow_failures": 0,
    "trivium": {"allow": []},
}


def job(folder: Path, options: dict[str, object] | None = None, **keys: object) -> int:
    cfg = OmegaConf.merge(BASE, keys, {"manifest_options": options or {}})
    folder.mkdir(exist_ok=True)
    return run(cfg, folder)  # type: ignore[arg-type]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Pictures named by patient and class, one that fits no pattern, one broken, one text file."""
    folder = tmp_path / "Bilder, (alle)"
    folder.mkdir()
    path = write_cohort(folder, 6)
    for row, name in enumerate(pd.read_csv(path)["path"]):
        (folder / name).rename(folder / ("overview.png" if row == 5 else f"p{row // 2}_disc_{row}.png"))
    path.unlink()
    (folder / "p2_disc_9.png").write_bytes(b"broken")
    (folder / "readme.txt").write_text("no picture")
    return folder


PATTERN = r"(?P<group>p\d)_(?P<label>[a-z]+)_"


def test_a_scanned_folder_becomes_a_manifest_that_reads_back(pictures: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert job(out, {"pattern": PATTERN}, input=str(pictures)) == 3
    frame = Manifest.read(out / "manifest.csv").frame
    assert frame["group"].tolist() == ["p0", "p0", "p1", "p1", "p2"]
    assert set(frame["label"]) == {"disc"}
    unmatched = pd.read_csv(out / "unmatched.csv")
    assert unmatched.to_numpy().tolist() == [["overview.png", "does not match the pattern"]]
    status = pd.read_csv(out / "status.csv").set_index("path")["status"]
    assert status["p2_disc_9.png"] == status["overview.png"] == "refused"
    assert (status == "ok").sum() == 5
    assert json.loads((out / "audit.json").read_text())["findings"][0]["check"] == "class_counts"
    printed = capsys.readouterr().out.splitlines()
    for line in ("pictures: 5", "groups: 3", "unmatched: 1", "refused: 2", "other_files: 1"):
        assert line in printed


def test_a_clean_folder_ends_with_status_0(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_cohort(folder, 4).unlink()
    assert job(tmp_path / "out", input=str(folder)) == 0
    assert len(pd.read_csv(tmp_path / "out" / "unmatched.csv")) == 0


def test_pictures_without_a_clinical_row_are_listed(pictures: Path, tmp_path: Path) -> None:
    for name in ("overview.png", "p2_disc_9.png"):
        (pictures / name).unlink()
    (tmp_path / "clinical.csv").write_text("group,time\np0,3\np1,4\n")
    options = {"pattern": PATTERN, "table": str(tmp_path / "clinical.csv")}
    assert job(tmp_path / "out", options, input=str(pictures)) == 3
    unmatched = pd.read_csv(tmp_path / "out" / "unmatched.csv")
    assert unmatched.to_numpy().tolist() == [["p2_disc_4.png", "group 'p2' is not in clinical.csv"]]
    assert pd.read_csv(tmp_path / "out" / "manifest.csv")["time"].tolist()[:4] == [3, 3, 4, 4]
    assert job(tmp_path / "allowed", options, input=str(pictures), allow_failures=1) == 0


def test_a_leak_in_a_table_ends_with_status_3_and_is_in_the_audit(tmp_path: Path) -> None:
    path = write_cohort(tmp_path)
    frame = pd.read_csv(path)
    frame.loc[1, "split"] = "test"
    frame.to_csv(path, index=False)
    assert job(tmp_path / "out", manifest=str(path)) == 3
    findings = json.loads((tmp_path / "out" / "audit.json").read_text())["findings"]
    assert [finding["check"] for finding in findings if finding["severity"] == "refuse"] == ["group_leak"]


def test_a_dry_run_counts_and_writes_nothing(pictures: Path, tmp_path: Path, capsys) -> None:
    assert job(tmp_path / "out", {"pattern": PATTERN}, input=str(pictures), dry_run=True) == 3
    assert not list((tmp_path / "out").iterdir())
    assert "pictures: 5" in capsys.readouterr().out


def test_neither_or_both_sources_and_a_pattern_that_matches_nothing_are_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder to scan or a table"):
        job(tmp_path / "out")
    with pytest.raises(UserError, match=r"no picture matches .* has overview\.png"):
        job(tmp_path / "out", {"pattern": "(?P<group>zzz)"}, input=str(pictures))
