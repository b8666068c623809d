"""Hydra, held in one place: search path, composition, sweeps, and the words for a wrong key."""

from __future__ import annotations

import difflib
import importlib.util
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

import core
from core.types import UserError

# Hydra writes nothing and configures no logging: the run folder is ours
QUIET = ("hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
CONF = Path(core.__file__).parents[1] / "conf"


class Composer:
    """Composes the configs of one verb of one domain; a context manager, because Hydra keeps one instance a process.

    Args:
        name: primary config.
        domain: import name of the domain's package.
        config_dir: folder of a user's own configs, searched after the packaged ones.
    """

    def __init__(self, name: str, domain: str, config_dir: str | None = None) -> None:
        self.name = name
        places = [str(CONF), *map(str, domain_configs(domain))]
        if config_dir is not None:
            if not Path(config_dir).is_dir():
                raise UserError(f"--config-dir '{config_dir}' is no folder", todo="give a folder of YAML files")
            places.append(str(Path(config_dir).absolute()))
        path = create_config_search_path(places[0])
        for place in places[1:]:
            path.prepend("trivium", f"file://{place}", anchor=SearchPathQuery(provider="schema"))
        self._path = path

    def __enter__(self) -> Composer:
        version.setbase("1.3")
        GlobalHydra.instance().clear()
        self.hydra = Hydra.create_main_hydra2(self.name, self._path)
        return self

    def __exit__(self, *_: object) -> None:
        GlobalHydra.instance().clear()

    def compose(self, overrides: Sequence[str], sweep: bool = False) -> DictConfig:
        """The whole config, with Hydra's own node.

        Raises:
            UserError: an unknown key, with the nearest ones.
            HydraException, OmegaConfBaseException: any other mistake in keys, choices or values.
        """
        try:
            return self._compose(overrides, sweep)
        except ConfigCompositionException as error:
            raise self._explain(error, overrides, sweep) from error

    def compose_mode(self, overrides: Sequence[str], multirun: bool) -> tuple[DictConfig, bool]:
        """The config, and whether it is that of a sweep: asked for by ``-m`` or by ``hydra.mode`` of an experiment."""
        if multirun:
            return self.compose(overrides, sweep=True), True
        try:
            cfg = self.compose(overrides)
        except HydraException:  # perhaps values to sweep over, which only a sweep may have
            cfg = self._compose(overrides, sweep=True)
            if cfg.hydra.mode != RunMode.MULTIRUN:
                raise
            return cfg, True
        if cfg.hydra.mode == RunMode.MULTIRUN:
            return self.compose(overrides, sweep=True), True
        return cfg, False

    def sweep(self, overrides: Sequence[str], folder: Path, task: Callable[[DictConfig], int]) -> list[Any]:
        """Runs every job of a sweep through the configured sweeper and launcher; job results in order."""
        from core.run.literals import override

        own = [override("hydra.sweep.dir", str(folder)), "hydra.mode=MULTIRUN"]
        batches = self.hydra.multirun(
            config_name=self.name,
            task_function=task,
            overrides=[*QUIET, *overrides, *own],
            with_log_configuration=False,
        )
        return [job for batch in batches for job in batch]

    def show(self, overrides: Sequence[str], kind: str, package: str | None, resolve: bool) -> None:
        """Prints the config (``--cfg job|hydra|all``)."""
        self.compose(overrides)  # for our words when a key is wrong
        self.hydra.show_cfg(self.name, [*QUIET, *overrides], cfg_type=kind, package=package, resolve=resolve)

    def _compose(self, overrides: Sequence[str], sweep: bool) -> DictConfig:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return self.hydra.compose_config(
                config_name=self.name,
                overrides=[*QUIET, *overrides],
                run_mode=RunMode.MULTIRUN if sweep else RunMode.RUN,
                with_log_configuration=False,
            )

    def _explain(self, error: ConfigCompositionException, overrides: Sequence[str], sweep: bool) -> Exception:
        """Names the keys nearest to one that is not there."""
        found = re.search(r"Could not override '([^']+)'", str(error))
        missing = re.search(r"Key '([^']+)' is not in struct", str(error.__cause__ or error))
        if found is None:
            return error
        key = found.group(1).partition("@")[0]
        if missing is None and "No match in the defaults list" not in str(error):
            return error  # the key is there, and its value is of a wrong kind
        others = [text for text in overrides if text.lstrip("+~").partition("=")[0] != key]
        try:
            known = keys_of(job_part(self._compose(others, sweep)))
        except HydraException:
            known = keys_of(job_part(self._compose([], sweep)))
        near = nearest(key, known)
        todo = f"perhaps you mean {' or '.join(near)}" if near else "see all keys with --cfg job"
        if key in known:
            return UserError(f"'{key}' is no single value", todo=f"set a key below it: {key}.<key>=...")
        return UserError(f"there is no key '{key}'", todo=todo)


def domain_configs(domain: str) -> list[Path]:
    """Folders of a domain's own configs: ``conf/<domain>`` for those of the suite, ``<package>/conf`` for others."""
    own = CONF / domain.removeprefix("domains.")
    if domain.startswith("domains."):
        return [own] if own.is_dir() else []
    spec = importlib.util.find_spec(domain)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    return [Path(folder) / "conf" for folder in folders if (Path(folder) / "conf").is_dir()]


def job_part(cfg: DictConfig) -> DictConfig:
    """The config without Hydra's own node."""
    mine = cfg.copy()
    with read_write(mine), open_dict(mine):
        del mine["hydra"]
    return mine


def keys_of(cfg: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a config, inner nodes too."""
    if not isinstance(cfg, DictConfig) or cfg._is_none() or cfg._is_missing():
        return []
    keys: list[str] = []
    for key in cfg:
        keys.append(f"{prefix}{key!s}")
        if not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, str(key)):
            keys += keys_of(cfg._get_node(key), f"{prefix}{key!s}.")
    return keys


def nearest(key: str, known: Sequence[str], count: int = 3) -> list[str]:
    """Known keys that look like the given one, as a whole or by their last part."""
    last = key.rpartition(".")[2]
    whole = [name for name in difflib.get_close_matches(key, known, count, 0.75) if not key.startswith(name + ".")]
    by_last = {name: name.rpartition(".")[2] for name in known}
    close = difflib.get_close_matches(last, sorted(set(by_last.values())), count, 0.75)
    return list(dict.fromkeys([*whole, *(name for part in close for name in known if by_last[name] == part)]))[:count]
