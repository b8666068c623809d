"""Compiled graphs on disk: found by content, never half-written, never trusted when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import core.knowledge.load
from core.knowledge.graph import KnowledgeGraph
from core.knowledge.load import load_graph
from tests.core.knowledge.graphs import TUMOURS

PARTS = ("ids", "names", "synonyms", "scopes", "definitions", "alternatives", "retired", "dangling", "unnamed")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "graph.obo"
    path.write_text(TUMOURS + "\n[Term]\nid: T:8\n\n[Term]\nid: T:7\nname: Zellgewebe größer\nis_a: X:1\n", "utf-8")
    return path


def same(a: KnowledgeGraph, b: KnowledgeGraph) -> bool:
    tables = [(x.indptr.tolist(), x.indices.tolist()) for g in (a, b) for x in (g.parents, g.ancestors)]
    return all(getattr(a, part) == getattr(b, part) for part in PARTS) and tables[:2] == tables[2:]


def no_parsing(*_: object) -> None:
    raise AssertionError("the file was parsed although it is cached")


def test_a_second_load_parses_nothing_and_gives_the_same(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_graph(source, cache=tmp_path / "cache")
    monkeypatch.setattr(core.knowledge.load, "_terms", no_parsing)
    second = load_graph(source, cache=tmp_path / "cache")
    assert same(first, second)
    kept = second.__dict__.pop("hash")
    assert kept == second.hash == first.hash  # the stored hash is the one its content has
    moved = tmp_path / "elsewhere.obo"
    moved.write_bytes(source.read_bytes())
    assert load_graph(moved, cache=tmp_path / "cache") == first  # by content, not by name
    assert not second.parents.indices.flags.writeable


def test_content_and_prefix_are_part_of_the_key(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = load_graph(source, cache=cache)
    assert load_graph(source, "T", cache).ids == first.ids
    source.write_text(source.read_text("utf-8").replace("inflammation", "irritation"), "utf-8")
    assert "irritation" in load_graph(source, cache=cache).names
    assert len(list(cache.rglob("*.npz"))) == 3


def test_damage_anywhere_is_noticed_and_mended(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    graph = load_graph(source, cache=cache)
    (file,) = cache.rglob("*.npz")
    sound = file.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [sound[:length] for length in (0, 3, len(sound) // 2, len(sound) - 1)]
    for place in rng.integers(0, len(sound), 60).tolist():
        damaged.append(sound[:place] + bytes([sound[place] ^ 0x55]) + sound[place + 1 :])
    for content in damaged:
        file.write_bytes(content)
        assert same(load_graph(source, cache=cache), graph)
    file.write_bytes(sound[: len(sound) // 2])
    load_graph(source, cache=cache)
    assert same(load_graph(source, cache=cache), graph)
    with np.load(file, allow_pickle=False) as arrays:
        assert not any(arrays[name].dtype.hasobject for name in arrays)


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("a regular file")
    graph = load_graph(source, cache=tmp_path / "file" / "below")
    assert graph.names
    assert "not cached" in caplog.text
