"""One run: a config, a folder, a verb; alone or as a job of a sweep, here or on a cluster."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from core.run.allowlist import allowing, resolve
from core.run.errors import INTERRUPTED, explain, report
from core.run.folder import CONFIG, is_begun, write_config
from core.run.kinds import check_arguments, check_plain
from core.run.named import check_named, with_packaged
from core.run.requeue import requeue
from core.run.resume import leaves, resumed_config
from core.run.status import STATUS, failure_count, read_state, write_state, write_status
from core.types import UserError


@dataclass(frozen=True)
class Job:
    """What to run; small and picklable, because a launcher may send it to another machine."""

    domain: str  # import name of the domain's package
    verb: str
    sweep: Path  # folder of the sweep
    allow: tuple[str, ...]  # packages that a _target_ may name
    place: str  # the folder the command was given in: paths start there, and the user's own packages may be there

    def __call__(self, cfg: DictConfig) -> int:
        """Runs one job of a sweep in ``<sweep>/<number>``; errors are reported and the other jobs go on."""
        from hydra.core.hydra_config import HydraConfig

        if self.place not in sys.path:
            sys.path.append(self.place)
        number = HydraConfig.get().job.num
        given = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)  # texts, not configs
        said = [str(text) for text in given if not str(text).startswith("output.")]  # type: ignore[union-attr]
        folder = self.sweep / str(number)
        state = read_state(folder)
        if state.get("state") == "completed":
            print(f"job {number} is done: {' '.join(said)}", flush=True)
            return int(state["exit_status"])
        print(f"job {number}: {' '.join(said)}", flush=True)
        try:
            settle(cfg, self.domain, self.verb, self.allow, Path(self.place))
            resumed = is_begun(folder)
            if resumed:
                cfg = resumed_config(load(folder), cfg, list(leaves(cfg)))
            from core.run.tables import check_tables

            check_tables(cfg)
            return run_in(folder, cfg, self.allow, resumed, said)
        except Exception as error:
            folder.mkdir(exist_ok=True)
            status = report(error, bool(cfg.debug))
            known = explain(error)
            write_state(folder, state="failed", exit_status=status, error=str(known or error), overrides=said)
            return status


def settle(cfg: DictConfig, domain: str, verb: str, allow: Sequence[str], place: Path | None = None) -> None:
    """What the command line alone decides, and whether the files it names, from ``place`` on, are there."""
    with open_dict(cfg):
        cfg.trivium = {"domain": short(domain), "verb": verb, "allow": list(allow)}
    check_names(cfg, allow)
    check_plain(cfg)
    check_named(cfg, short(domain), place or Path.cwd())


def short(domain: str) -> str:
    """The name of a domain in commands and folders."""
    return domain.removeprefix("domains.")


def load(folder: Path) -> DictConfig:
    """The saved config of a run.

    Raises:
        UserError: it cannot be read.
    """
    try:
        cfg = OmegaConf.load(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{folder / CONFIG}': {error}", todo="give the folder of a run") from error
    assert isinstance(cfg, DictConfig)
    return cfg


def run_in(folder: Path, cfg: DictConfig, allow: Sequence[str], resumed: bool, said: Sequence[str]) -> int:
    """Runs a verb in its folder and keeps its state: ``running``, then ``completed``, ``failed`` or ``interrupted``.

    Returns:
        What the verb returned: 0, or 3 for a run with refused or partial inputs.

    Raises:
        Exception: whatever the verb raised, after the state is written.
    """
    own = os.environ.get("SLURM_PROCID", "0") == "0"  # further SLURM tasks share the folder of the first
    started = time.time()
    facts: dict[str, Any] = {"overrides": list(said), "started": _clock(started), "pid": os.getpid()}
    if own and not resumed:
        write_config(folder, cfg)
    if resumed:
        with open_dict(cfg):
            cfg.resume = str(folder)
    if own:
        write_state(folder, state="running", **facts)
    try:
        with allowing(allow):
            verb = importlib.import_module(f"core.run.{cfg.trivium.verb}")
            check_targets(cfg)
            status = int(verb.run(with_packaged(cfg), folder))
        if own and not cfg.dry_run and not (folder / STATUS).exists():
            write_status(folder, [])
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        code = INTERRUPTED if stopped else 2 if isinstance(error, Exception) and explain(error) else 1
        if own:
            message = "interrupted" if stopped else str(explain(error) or f"{type(error).__name__}: {error}")
            _write_end(folder, "interrupted" if stopped else "failed", code, started, facts, error=message)
            requeue(error)
        raise
    if own:
        ended = "dry_run" if cfg.dry_run else "completed"  # nothing is done: a dry run can be gone on with
        _write_end(folder, ended, status, started, facts, failures=failure_count(folder))
    return status


def check_names(cfg: DictConfig, allow: Sequence[str]) -> None:
    """Refuses a ``_target_`` whose very name is not allowed, before anything is imported.

    Raises:
        UserError: there is one.
    """
    from core.run.allowlist import check_name

    with allowing(allow):
        for key, name in targets(cfg):
            check_name(name, key)


def check_targets(cfg: DictConfig) -> None:
    """Resolves every ``_target_`` of a config, so that a wrong one ends the run before it has done anything.

    Raises:
        UserError: one is not allowed or not there, or is given an argument of another kind.
    """
    for key, name in targets(cfg):
        target, where = resolve(name, key), key.rpartition(".")[0]
        node: Any = OmegaConf.to_container(OmegaConf.select(cfg, where) if where else cfg, resolve=True)
        # what is null or missing may be filled in later, and parts are still to be built
        given = {name: value for name, value in node.items() if value is not None and value != "???"}
        parts = [name for name, value in given.items() if isinstance(value, dict) and "_target_" in value]
        check_arguments(target, {name: value for name, value in given.items() if name not in parts}, where)


def targets(node: Any, prefix: str = "") -> list[tuple[str, str]]:
    """(key, name) of every ``_target_`` of a config."""
    if isinstance(node, ListConfig):
        return [pair for number in range(len(node)) for pair in targets(node._get_node(number), f"{prefix}{number}.")]
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
        return []
    found = [(f"{prefix}_target_", str(node["_target_"]))] if "_target_" in node else []
    for key in node:
        found += targets(node._get_node(key), f"{prefix}{key!s}.")
    return found


def _write_end(folder: Path, state: str, status: int, started: float, facts: dict[str, Any], **more: Any) -> None:
    """A disk that is full takes no state either; the error that filled it is the one to show."""
    ended = {"ended": _clock(time.time()), "seconds": round(time.time() - started, 1)}
    try:
        write_state(folder, state=state, exit_status=status, **facts, **ended, **more)
    except UserError:
        if state == "completed":
            raise


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
