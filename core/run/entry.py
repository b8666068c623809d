"""Where every verb starts: help, keys, config, run folder, errors, exit status.

``--help`` is printed and missing files are named before torch is imported; importing this module imports neither Hydra
nor torch.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.run.errors import INTERRUPTED, OK, USER, explain, report
from core.run.help import help_text
from core.types import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from core.run.compose import Composer

HELP = ("-h", "--help")


def main(domain: str, verb: str, argv: Sequence[str] | None = None) -> int:
    """Runs a verb of a domain.

    Args:
        domain: ``pathology``, or the import name of a package outside of the suite (``toy.microscopy``).
        verb: ``train``, ``evaluate``, ...
        argv: ``key=value`` and options; by default those of the process.

    Returns:
        The exit status: 0 done; 2 a mistake of the user, explained; 3 done, but inputs were refused or partial; 130
        interrupted; 1 a defect of ours, with its traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = any(re.fullmatch("debug=(true|1)", argument.lower()) for argument in arguments)
    try:
        check_siblings()
        package = find_domain(domain)
        if any(argument in HELP for argument in arguments):
            print(help_text(package, verb))
            return OK
        return _run(package, verb, _parse(arguments))
    except KeyboardInterrupt as error:
        print(f"interrupted. {error}".strip(), file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return report(error, debug)


def check_siblings() -> None:
    """``core`` and ``domains`` must come from one installation.

    Raises:
        UserError: a folder of the same name hides one of them.
    """
    own = Path(__file__).resolve().parents[2]
    spec = importlib.util.find_spec("domains")
    places = [] if spec is None else [Path(place).resolve() for place in spec.submodule_search_locations or []]
    if not any(place.parent == own for place in places):
        where = str(places[0]) if places else "nowhere"
        raise UserError(f"'domains' was found in '{where}' and not beside 'core' in '{own}'",
                        todo="rename that folder, or work in another one")  # fmt: skip


def find_domain(name: str) -> str:
    """Import name of a domain's package.

    Raises:
        UserError: there is none.
    """
    for candidate in (f"domains.{name}", name):
        try:
            spec = importlib.util.find_spec(candidate)
        except (ModuleNotFoundError, ValueError):
            continue
        if spec is not None and spec.submodule_search_locations:
            return candidate
    import pkgutil

    suite = importlib.util.find_spec("domains")
    places = None if suite is None else suite.submodule_search_locations
    known = [module.name for module in pkgutil.iter_modules(places) if module.ispkg]
    raise UserError(f"there is no domain '{name}'", todo=f"choose from {', '.join(known)}, or put the folder of your "
                    "own package on PYTHONPATH")  # fmt: skip


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--cfg", "-c", choices=("job", "hydra", "all"))
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument("--config-name", "-cn")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--info", "-i", nargs="?", const="all", choices=("all", "defaults", "defaults-tree", "config",
                        "plugins", "searchpath"))  # fmt: skip
    parser.error = _refuse  # type: ignore[assignment,method-assign]
    return parser.parse_intermixed_args(list(arguments))


def _refuse(message: str) -> None:
    raise UserError(message, todo="see --help; settings are key=value")


def _run(package: str, verb: str, args: argparse.Namespace) -> int:
    from core.run.compose import Composer
    from core.run.folder import SWEEP
    from core.run.literals import quote

    allow, said = _allow(package, args.overrides)
    name = args.config_name or verb
    with Composer(name, package, args.config_dir) as composer:
        overrides = quote(said)
        if args.cfg:
            composer.show(overrides, args.cfg, args.package, args.resolve)
            return OK
        if args.info:
            composer.hydra.show_info(args.info, config_name=name, overrides=overrides)
            return OK
        cfg, sweep = composer.compose_mode(overrides, args.multirun)
        resumed = _resumed(cfg, package, verb)
        if resumed is not None and (resumed / SWEEP).is_file():
            kept = json.loads((resumed / SWEEP).read_text(encoding="utf-8"))
            overrides = quote([*kept["overrides"], *(text for text in said if not text.startswith("resume="))])
            cfg = composer.compose(overrides, sweep=True)
            place = Path(kept.get("place", Path.cwd()))
            return _sweep(composer, cfg, package, verb, allow, overrides, kept["overrides"], resumed, place)
        if sweep:
            if resumed is not None:
                raise UserError(f"resume '{resumed}' is no sweep", todo="give the folder that holds the numbered runs")
            return _sweep(composer, cfg, package, verb, allow, overrides, said, None, Path.cwd())
        plain = composer.compose([]) if resumed is not None else None
    return _single(cfg, plain, package, verb, allow, said, resumed)


def _single(
    cfg: DictConfig,
    plain: DictConfig | None,
    package: str,
    verb: str,
    allow: Sequence[str],
    said: Sequence[str],
    resumed: Path | None,
) -> int:
    from core.run.compose import job_part
    from core.run.folder import create, is_begun, is_done, joins_existing, link_latest, make_id, wait_for
    from core.run.job import load, run_in, settle
    from core.run.resume import changed, leaves, resumed_config

    experiment = _experiment(cfg)
    cfg = job_part(cfg)
    settle(cfg, package, verb, allow)
    from core.run.tables import check_tables  # a missing file is told before pandas is imported

    if resumed is not None:
        if is_done(resumed):
            raise UserError(f"the run '{resumed}' has ended", "resume", "start a new one without resume=")
        assert plain is not None
        base = job_part(plain)
        settle(base, package, verb, allow)
        cfg = resumed_config(load(resumed), cfg, [*changed(cfg, base), "trivium.allow"])
        check_tables(cfg)
        folder = resumed
    else:
        leaves(cfg)  # every value that is missing or cannot be read is named before a folder is made
        check_tables(cfg)
        wanted = _base(cfg, package, verb, experiment) / (cfg.output.id or make_id())
        if joins_existing() and (is_begun(wanted) or os.environ.get("SLURM_PROCID", "0") != "0"):
            folder, resumed = wait_for(wanted), wanted
        else:
            folder = create(wanted, exact=bool(cfg.output.id))
        link_latest(folder)
    print(f"run folder: {folder}", file=sys.stderr, flush=True)
    try:
        return run_in(folder, cfg, allow, resumed is not None, said)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{error} Go on with resume='{folder}'".strip()) from error


def _sweep(
    composer: Composer,
    cfg: DictConfig,
    package: str,
    verb: str,
    allow: tuple[str, ...],
    overrides: Sequence[str],
    said: Sequence[str],
    resumed: Path | None,
    place: Path,
) -> int:
    from core.files import atomic_write
    from core.run.compose import job_part
    from core.run.folder import SWEEP, create, joins_existing, link_latest, make_id
    from core.run.job import Job, settle
    from core.run.status import write_state

    mine = job_part(cfg)
    settle(mine, package, verb, allow, place)
    if resumed is None:
        wanted = _base(mine, package, verb, _experiment(cfg)) / (mine.output.id or make_id())
        again = joins_existing() and (wanted / SWEEP).is_file()  # a requeued job
        folder = wanted if again else create(wanted, exact=bool(mine.output.id))
        with atomic_write(folder / SWEEP) as temporary:
            content = {"schema_version": 1, "domain": package, "verb": verb, "overrides": list(said),
                       "place": str(place)}  # fmt: skip
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        link_latest(folder)
    else:
        folder = resumed
    print(f"run folder: {folder}", file=sys.stderr, flush=True)
    job = Job(package, verb, folder.absolute(), allow, str(place))
    try:
        results = composer.sweep(overrides, folder.absolute(), job)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{error} Go on with resume='{folder}'".strip()) from error
    except Exception as error:
        write_state(folder, state="failed", exit_status=USER, error=str(explain(error) or error))
        raise
    (folder / "multirun.yaml").unlink(missing_ok=True)  # Hydra's; sweep.json and each job's config say it all
    statuses = [int(result.return_value) for result in results]
    status = _summary(folder, statuses)
    module = importlib.import_module(f"core.run.{verb}")
    if hasattr(module, "after_sweep") and any(code in (0, 3) for code in statuses):
        module.after_sweep(folder, mine)
    return status


def _summary(folder: Path, statuses: Sequence[int]) -> int:
    """Says how the jobs of a sweep ended; the worst status is the sweep's."""
    from core.run.status import read_state, write_state

    failed = {number: code for number, code in enumerate(statuses) if code not in (0, 3)}
    refused = 0
    for number, code in enumerate(statuses):
        state = read_state(folder / str(number))
        refused += int(state.get("failures", 0))
        if number in failed:
            print(f"job {number} failed with status {code}: {state.get('error', '')}", file=sys.stderr)
    done = len(statuses) - len(failed)
    print(f"jobs: {len(statuses)} ({done} done, {len(failed)} failed), {refused} inputs refused or partial", flush=True)
    worst = 1 if 1 in statuses else USER if USER in statuses else max(statuses, default=0)
    write_state(folder, state="failed" if failed else "completed", exit_status=worst, jobs=len(statuses),
                failed=sorted(failed), failures=refused)  # fmt: skip
    return worst


def _allow(package: str, arguments: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Packages the command line allows beside the suite's (the domain's own too), and the other arguments."""
    own = () if package.startswith("domains.") else (package,)
    names: list[str] = []
    others = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key.lstrip("+") == "trivium.allow":
            names += [name.strip(" '\"") for name in value.strip("[] ").split(",") if name.strip(" '\"")]
        else:
            others.append(argument)
    return (*own, *names), others


def _resumed(cfg: Any, package: str, verb: str) -> Path | None:
    """The folder that ``resume=`` names."""
    from core.run.folder import LATEST, SWEEP, is_begun

    if not cfg.get("resume"):
        return None
    folder = Path(cfg.resume)
    if cfg.resume == LATEST:
        folder = _base(cfg, package, verb, _experiment(cfg)) / LATEST
    if not is_begun(folder) and not (folder / SWEEP).is_file():
        raise UserError(f"resume '{folder}' is no run folder", todo="give the folder of a run or of a sweep, or latest")
    return folder.resolve() if cfg.resume == LATEST else folder


def _base(cfg: Any, package: str, verb: str, experiment: str) -> Path:
    from core.run.job import short

    return Path(cfg.output.root) / short(package) / verb / experiment


def _experiment(cfg: Any) -> str:
    """Name of the chosen experiment, as a part of a path."""
    choice = cfg.hydra.runtime.choices.get("experiment")
    return str(choice).replace("/", "-") if choice else "default"
