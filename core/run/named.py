"""The files that a config names: looked for before anything heavy is imported; packaged ones found in the wheel."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from core.data.paths import check_paths
from core.run.folder import LATEST, find
from core.types import UserError

PACKAGED = "pkg://"
FILES = ("input", "encoder", "index", "example", "runs", "knowledge.path", "knowledge.aliases", "evaluation.hierarchy",
         "data.external.manifest", "data.external.classes", "classes")  # fmt: skip


def check_named(cfg: DictConfig, domain: str) -> None:
    """Looks for every file and folder that a literal key names, and turns ``run=latest`` into a folder.

    Raises:
        UserError: one is missing.
    """
    if cfg.get("run"):
        cfg.run = str(find(cfg.run, Path(cfg.output.root), domain))
    try:
        check_paths(
            cfg.get("manifest"),
            OmegaConf.select(cfg, "manifest_options.root"),
            OmegaConf.select(cfg, "manifest_options.table"),
        )
    except UserError as error:
        if "TRIVIUM_DATA" not in str(cfg._get_node("manifest")._value()):  # type: ignore[union-attr]
            raise
        raise UserError(error.what, todo="set TRIVIUM_DATA to the folder of the real data") from error
    for key in FILES:
        value = OmegaConf.select(cfg, key)
        for name in value if isinstance(value, ListConfig) else [value]:
            if name is not None and name != LATEST and not Path(packaged(str(name))).exists():
                raise UserError(f"{key} '{name}' does not exist", todo=_nearest(Path(name)))


def packaged(name: str) -> str:
    """The path of ``pkg://package/file``, which is shipped in the wheel; any other name as it is.

    Raises:
        UserError: there is no such package.
    """
    if not name.startswith(PACKAGED):
        return name
    package, _, rest = name.removeprefix(PACKAGED).partition("/")
    try:
        return str(resources.files(package).joinpath(rest))
    except ModuleNotFoundError as error:
        raise UserError(f"'{name}' names a package that is not there", todo="correct it") from error


def with_packaged(cfg: DictConfig) -> DictConfig:
    """The config with every ``pkg://`` path in place."""
    found = cfg.copy()
    with open_dict(found):
        _replace(found)
    return found


def _replace(node: Any) -> None:
    keys = list(node) if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        if OmegaConf.is_missing(node, key):
            continue
        value = node[key]
        if isinstance(value, DictConfig | ListConfig):
            _replace(value)
        elif isinstance(value, str) and value.startswith(PACKAGED):
            node[key] = packaged(value)


def _nearest(path: Path) -> str:
    there = next(parent for parent in path.absolute().parents if parent.exists())
    return f"of its path, '{there}' is the last folder that exists"
