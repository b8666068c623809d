"""Paths of a config, made absolute in one place: what a run keeps of itself is then of use from any folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from core.run.literals import escape

KEYS = ("run", "runs", "input", "manifest", "manifest_options.root", "manifest_options.table", "out", "index",
        "example", "encoder", "classes", "knowledge.path", "knowledge.aliases", "evaluation.hierarchy",
        "data.external.manifest", "data.external.root", "data.external.classes", "model.weights",
        "bags.features", "bags.layout.patches")  # fmt: skip
WORDS = ("latest",)  # stand for a folder that is looked for
DATA = "TRIVIUM_DATA"


def anchor(cfg: DictConfig, base: Path) -> None:
    """Makes every path of a config absolute, from the folder in which it was said.

    Args:
        cfg: changed in place; ``pkg://`` names stay.
        base: absolute.
    """
    for key in KEYS:
        value = OmegaConf.select(cfg, key)
        if isinstance(value, ListConfig):
            OmegaConf.update(cfg, key, escape([absolute(str(item), base) for item in value]))
        elif value is not None and str(value) not in WORDS:
            OmegaConf.update(cfg, key, escape(absolute(str(value), base)))


def absolute(name: str, base: Path) -> str:
    """An absolute path; ``..`` is followed as the file system does, and a link at the end of the path stays one."""
    if "://" in name:
        return name
    parts = (base / name).parts
    if ".." not in parts:
        return str(Path(*parts))
    last = len(parts) - parts[::-1].index("..")
    return str(Path(*parts[:last]).resolve().joinpath(*parts[last:]))


def located(values: Any) -> Any:
    """Escaped values as a run keeps them: what ``TRIVIUM_DATA`` located is found by it again, wherever that is then."""
    root = os.environ.get(DATA, "")
    if not root or set(root) & set("'\\$"):  # such a path stays as it is
        return values
    return _located(values, absolute(root, Path.cwd()).rstrip("/") + "/")


def _located(value: Any, root: str) -> Any:
    if isinstance(value, dict):
        return {key: _located(inner, root) for key, inner in value.items()}
    if isinstance(value, list):
        return [_located(inner, root) for inner in value]
    if isinstance(value, str) and value.startswith(root):
        return f"${{oc.env:{DATA},'{root[:-1]}'}}/{value.removeprefix(root)}"
    return value
