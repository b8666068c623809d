"""The `knowledge` verb: the promised lines first, findings by name, and nothing half-written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from core.run.knowledge import run
from core.types import UserError
from tests.core.knowledge.graphs import TUMOURS


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))


def config(tmp_path: Path, **keys: object) -> DictConfig:
    (tmp_path / "graph.obo").write_text(TUMOURS)
    knowledge = {"path": str(tmp_path / "graph.obo"), "prefix": None, "aliases": None}
    return OmegaConf.create({"knowledge": knowledge, "query": None, "manifest": None, "dry_run": False, **keys})


def test_counts_come_first_and_findings_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config(tmp_path), tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        "live_terms: 6",
        "synonyms: 4",
        "definitions: 1",
        "is_a_edges: 6",
        "multi_parent_terms: 1",
        "roots: 1",
    ]
    assert "depth: 3" in lines
    assert "  T:9 old tumour: replaced by T:1" in lines
    with open(tmp_path / "findings.csv", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["T:9"]
    assert (tmp_path / "status.csv").is_file()


@pytest.mark.parametrize("query", ["T:3", "Squamous cell carcinoma"])
def test_a_concept_is_shown_with_its_relatives(tmp_path: Path, capsys: pytest.CaptureFixture[str], query: str) -> None:
    run(config(tmp_path, query=query), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "synonym: SCC (EXACT)" in lines
    assert "parent: T:2 carcinoma" in lines
    assert [line for line in lines if line.startswith("ancestor")] == [
        "ancestor: T:2 carcinoma",
        "ancestor: T:1 neoplasm",
        "ancestor: T:0 disease",
    ]


def test_a_text_is_linked_with_spans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(config(tmp_path, query="Two carcinomas, inflamed"), tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["mentions: 1", "  [4:14] 'carcinomas': T:2 carcinoma"]
    with pytest.raises(UserError, match="T:404"):
        run(config(tmp_path, query="T:404"), tmp_path)


def test_the_captions_of_a_manifest_are_covered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"not opened")
    (tmp_path / "manifest.csv").write_text("path,id,caption\na.png,1,A carcinoma.\na.png,2,A glass.\n")
    cfg = config(tmp_path, manifest=str(tmp_path / "manifest.csv"))
    run(cfg, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "linked_texts: 1 of 2 (50.0%)" in lines
    assert "unlinked: A glass. (1)" in lines
    run(OmegaConf.merge(cfg, {"data": {"sharing": "restricted"}}), tmp_path)  # type: ignore[arg-type]
    assert "glass" not in capsys.readouterr().out


def test_lists_merge_and_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.csv").write_text("id,name,parent\nU:1,organ,\n")
    cfg = config(tmp_path, dry_run=True)
    cfg.knowledge.path = [cfg.knowledge.path, str(tmp_path / "table.csv")]
    run(cfg, tmp_path / "folder")
    assert "live_terms: 7" in capsys.readouterr().out
    assert not (tmp_path / "folder").exists()


def test_no_graph_is_a_mistake(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.knowledge.path = None
    with pytest.raises(UserError, match=r"knowledge\.path"):
        run(cfg, tmp_path)
