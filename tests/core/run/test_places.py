"""Claims about the paths of a config: absolute in what a run keeps, wherever it was begun, and found again."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from core.run.places import absolute, anchor
from core.types import UserError
from tests.core.run.verbs import only_run, run, tiny_graph, use_verb


def test_every_path_starts_where_it_was_said(tmp_path: Path) -> None:
    cfg = OmegaConf.create(
        {
            "manifest": "pairs, (a).csv",
            "run": "latest",
            "runs": ["one", "/two"],
            "knowledge": {"path": "pkg://domains.pathology/tables/colorectal.csv", "aliases": None},
            "data": {"external": {"manifest": "\\${odd}.csv"}},
        }
    )
    anchor(cfg, Path("/here"))
    assert OmegaConf.to_container(cfg, resolve=True) == {
        "manifest": "/here/pairs, (a).csv",
        "run": "latest",
        "runs": ["/here/one", "/two"],
        "knowledge": {"path": "pkg://domains.pathology/tables/colorectal.csv", "aliases": None},
        "data": {"external": {"manifest": "/here/${odd}.csv"}},
    }


def test_the_folder_above_is_that_of_the_file_system_and_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (tmp_path / "near").symlink_to(tmp_path / "far" / "inner")
    (tmp_path / "far" / "table.csv").symlink_to(tmp_path / "stored")
    assert absolute("../table.csv", tmp_path / "near") == str(tmp_path / "far" / "table.csv")
    assert absolute("near/table.csv", tmp_path) == str(tmp_path / "near" / "table.csv")


def test_what_the_variable_located_is_found_by_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tmp_path / "Größe, (a=b)"
    graph = tiny_graph(before)
    monkeypatch.setenv("TRIVIUM_DATA", str(before))
    assert run("knowledge", f"knowledge.path={graph}", f"output.root={tmp_path}/out") == 0
    config = only_run(tmp_path / "out") / "config.yaml"
    assert OmegaConf.load(config).knowledge.path == str(graph)
    monkeypatch.setenv("TRIVIUM_DATA", "/moved")
    assert OmegaConf.load(config).knowledge.path == "/moved/tiny.obo"
    monkeypatch.delenv("TRIVIUM_DATA")
    assert OmegaConf.load(config).knowledge.path == str(graph)


def test_a_sweep_goes_on_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def job(cfg: DictConfig, folder: Path) -> int:
        seen.append(cfg.knowledge.path)
        if len(seen) == 2:
            raise UserError("stopped half-way")
        return 0

    use_verb(monkeypatch, job)
    graph = tiny_graph(tmp_path / "begun")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(graph.parent)
    assert run("knowledge", "-m", "knowledge.path=tiny.obo", "knowledge.prefix=A,B", f"output.root={tmp_path}/out") == 2
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("knowledge", f"resume={only_run(tmp_path / 'out')}") == 0
    assert seen == [str(graph)] * 3
