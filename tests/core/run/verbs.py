"""Running a verb in this process, and a graph small enough to be built at once."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from core.run.entry import main

TINY = "format-version: 1.2\n\n[Term]\nid: A:1\nname: one\n\n[Term]\nid: A:2\nname: two\nis_a: A:1\n"


def tiny_graph(folder: Path, name: str = "tiny.obo") -> Path:
    """An ontology of two terms."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(TINY)
    return path


def run(verb: str, *arguments: str) -> int:
    """``python -m domains.pathology.<verb>`` in this process."""
    return main("pathology", verb, arguments)


def use_verb(
    monkeypatch: pytest.MonkeyPatch, job: Callable[[DictConfig, Path], int], verb: str = "knowledge", **more: object
) -> None:
    """Puts another job in the place of a verb: what the entry does around any job is what is tested."""
    module = types.ModuleType(f"core.run.{verb}")
    module.run = job  # type: ignore[attr-defined]
    for name, value in more.items():
        setattr(module, name, value)
    monkeypatch.setitem(__import__("sys").modules, f"core.run.{verb}", module)


def only_run(root: Path, verb: str = "knowledge", experiment: str = "default") -> Path:
    """The newest run folder of a verb."""
    return (root / "pathology" / verb / experiment / "latest").resolve()
