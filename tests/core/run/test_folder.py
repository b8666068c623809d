"""Claims about run folders and fates on disk."""

from __future__ import annotations

import csv
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.run.folder import create, find, joins_existing, link_latest, make_id
from core.run.status import exit_status, read_state, write_state, write_status
from core.types import Fate, UserError


def test_many_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: create(tmp_path / "a" / "now"), range(32)))
    assert len(set(folders)) == 32
    assert (tmp_path / "a" / "now") in folders


def test_a_chosen_name_is_never_shared(tmp_path: Path) -> None:
    (create(tmp_path / "mine", exact=True) / "config.yaml").touch()
    with pytest.raises(UserError, match="resume="):
        create(tmp_path / "mine", exact=True)
    (create(tmp_path / "swept", exact=True) / "3").mkdir()
    (tmp_path / "swept" / "3" / "config.yaml").touch()
    with pytest.raises(UserError, match="resume="):
        create(tmp_path / "swept", exact=True)


def test_a_folder_that_a_killed_run_left_without_a_config_is_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("core.run.folder.GRACE_SECONDS", 0.3)
    folder = create(tmp_path / "mine", exact=True)
    (folder / "job.log").write_text("killed")

    def take(_: int) -> str:
        try:
            (create(folder, exact=True) / "config.yaml").touch()
        except UserError as error:
            return str(error)
        return "taken"

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(take, range(8)))
    assert said.count("taken") == 1
    assert all("resume=" in text for text in said if text != "taken")
    assert (folder / "job.log").read_text() == "killed"
    assert "holds no run" in capsys.readouterr().err


def test_a_path_under_a_file_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file" / "below" / "run", tmp_path / "file"):
        with pytest.raises(UserError, match=r"output\.root"):
            create(folder)
    assert os.listdir(tmp_path) == ["file"]


def test_latest_moves_in_one_step_and_spares_a_real_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        link_latest(create(tmp_path / name))
    assert (tmp_path / "latest").resolve() == tmp_path / "two"
    assert sorted(os.listdir(tmp_path)) == ["latest", "one", "two"]
    (tmp_path / "below" / "latest").mkdir(parents=True)
    link_latest(create(tmp_path / "below" / "run"))
    assert not (tmp_path / "below" / "latest").is_symlink()


def test_a_slurm_job_names_its_run_and_its_further_tasks_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert make_id() == "77"
    assert not joins_existing()
    monkeypatch.setenv("SLURM_STEP_ID", "2")
    assert make_id() == "77.2"
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert joins_existing()
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "70")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "5")
    assert make_id() == "70_5"


def trained(folder: Path, state: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "model.safetensors").write_bytes(b"")
    write_state(folder, state=state)
    return folder


def test_latest_is_the_newest_run_that_ended_also_within_a_sweep(tmp_path: Path) -> None:
    old = trained(tmp_path / "pathology/train/default/a", "completed")
    new = trained(tmp_path / "pathology/train/claim/sweep/3", "completed")
    trained(tmp_path / "pathology/train/default/z", "failed")
    os.utime(old / "status.json", (1, 1))
    assert find("latest", tmp_path, "pathology") == new.resolve()
    with pytest.raises(UserError, match="no trained run"):
        find("latest", tmp_path, "medical")


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    trained(tmp_path / "sweep" / "0", "completed")
    with pytest.raises(UserError, match=r"is a sweep.*0"):
        find(str(tmp_path / "sweep"), tmp_path, "pathology")
    with pytest.raises(UserError, match="does not exist"):
        find(str(tmp_path / "nowhere"), tmp_path, "pathology")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.yaml"):
        find(str(tmp_path / "empty"), tmp_path, "pathology")


def test_every_fate_is_a_row_and_failures_are_those_that_are_not_ok(tmp_path: Path) -> None:
    fates = [Fate("a, b.svs", "ok", counts={"tiles": 3}), Fate("ü.svs", "refused", "no mpp", {"files": 2})]
    write_status(tmp_path, fates)
    with open(tmp_path / "status.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["status"], row["tiles"], row["files"]) for row in rows] == [
        ("a, b.svs", "ok", "3", ""),
        ("ü.svs", "refused", "", "2"),
    ]
    with open(tmp_path / "failures.csv", newline="", encoding="utf-8") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["no mpp"]


@pytest.mark.parametrize(("allowed", "status"), [(0, 3), (1, 3), (2, 0), ("all", 0)])
def test_refused_inputs_decide_the_exit_status(allowed: object, status: int) -> None:
    fates = [Fate("a", "ok"), Fate("b", "refused"), Fate("c", "partial")]
    assert exit_status(fates, allowed) == status  # type: ignore[arg-type]
    assert exit_status(fates[:1], allowed) == 0  # type: ignore[arg-type]


def test_a_strange_allowance_and_a_newer_state_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allow_failures"):
        exit_status([], "some")
    (tmp_path / "status.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(UserError, match="99"):
        read_state(tmp_path)
