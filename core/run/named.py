"""The files that a config names: looked for before anything heavy is imported; packaged ones found in the wheel."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from core.data.paths import check_paths
from core.run.folder import LATEST, find
from core.run.places import DATA, anchor
from core.types import UserError

PACKAGED = "pkg://"
FILES = ("input", "encoder", "index", "example", "runs", "knowledge.path", "knowledge.aliases", "evaluation.hierarchy",
         "data.external.manifest", "data.external.classes", "classes", "bags.features",
         "bags.layout.patches")  # fmt: skip


def check_named(cfg: DictConfig, domain: str, base: Path) -> None:
    """Looks for every file and folder that a literal key names; makes their paths absolute, and of ``run=latest`` a
    folder.

    Args:
        cfg: changed in place.
        domain: short name.
        base: folder in which the paths were said, absolute.

    Raises:
        UserError: one is missing.
    """
    manifest = cfg._get_node("manifest") if "manifest" in cfg else None
    by_variable = manifest is not None and DATA in str(manifest._value())  # type: ignore[union-attr]
    anchor(cfg, base)
    if cfg.get("run") == LATEST:
        cfg.run = str(find(LATEST, Path(cfg.output.root), domain))
    elif cfg.get("run"):
        find(cfg.run, Path(cfg.output.root), domain, sweeps=cfg.trivium.verb == "predict")
    try:
        check_paths(
            cfg.get("manifest"),
            OmegaConf.select(cfg, "manifest_options.root"),
            OmegaConf.select(cfg, "manifest_options.table"),
        )
    except UserError as error:
        if not by_variable:
            raise
        raise UserError(error.what, todo=f"set {DATA} to the folder of the real data") from error
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
