"""The folder of a run: created exclusively, with a link to the latest; found again by ``run=`` and ``resume=``."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from core.files import atomic_write
from core.run.literals import escape
from core.run.places import located
from core.run.status import STATE, read_state
from core.types import UserError

LATEST = "latest"
CONFIG, VERSIONS = "config.yaml", "versions.json"
SWEEP = "sweep.json"  # what a sweep was asked, so that resume= repeats it
WEIGHTS = "model.safetensors"
GRACE_SECONDS = 5.0  # in which whoever made a folder writes its config, which is the first thing it does
PACKAGES = (
    "trivium", "torch", "torchvision", "lightning", "open_clip_torch", "timm", "hydra-core", "omegaconf", "numpy",
    "scikit-learn", "pandas", "pyarrow", "pillow", "openslide-python", "openslide-bin", "pydicom",
)  # fmt: skip


def make_id() -> str:
    """The name of a run without ``output.id``: the SLURM job (its array element, its step after the first), else the
    time."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID", "")
    job = f"{job}_{os.environ['SLURM_ARRAY_TASK_ID']}" if job else os.environ.get("SLURM_JOB_ID", "")
    if not job:
        return time.strftime("%Y-%m-%d_%H-%M-%S")
    step = os.environ.get("SLURM_STEP_ID", "")
    return f"{job}.{step}" if step.isdigit() and step != "0" else job


def joins_existing() -> bool:
    """Whether this process belongs to a run that another one began: a further SLURM task, or a requeued job."""
    return os.environ.get("SLURM_PROCID", "0") != "0" or os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def create(folder: Path, exact: bool = False) -> Path:
    """Makes a run folder that nobody else has.

    Args:
        folder: the wanted folder.
        exact: a taken name is an error, unless its run was killed before it wrote anything; otherwise it gets a suffix.

    Raises:
        UserError: it cannot be created, or holds a run.
    """
    for number in range(1, 1000):
        chosen = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            chosen.parent.mkdir(parents=True, exist_ok=True)
            chosen.mkdir()
        except FileExistsError as error:
            if not chosen.is_dir():  # a file on the way, or in its place
                raise _not_created(folder, "a file is in the way") from error
            if exact and _inherit(chosen):
                print(f"'{chosen}' holds no run, only what a killed one left: it is taken", file=sys.stderr, flush=True)
                return chosen
            if exact:
                raise UserError(f"the run folder '{folder}' exists", "output.id",
                                "choose another name, or go on with it by resume=") from error  # fmt: skip
            continue
        except OSError as error:
            raise _not_created(folder, error.strerror or str(error)) from error
        return chosen
    raise _not_created(folder, "a thousand runs have this name")


def _inherit(folder: Path) -> bool:
    """Whether a folder without a run is now this process's own; what is in it (logs) stays.

    Its maker may be about to write its config, so it is watched first: a clock of another machine says nothing. Of
    several processes that saw one state of the folder one can claim it, and its claim is a new state to the others.
    """
    end, seen = 0.0, -1
    while not any(next(folder.rglob(name), None) for name in (CONFIG, SWEEP, WEIGHTS)):
        state, now = folder.stat().st_mtime_ns, time.monotonic()
        if state != seen:
            end, seen = now + GRACE_SECONDS, state
        if now >= end:
            try:
                (folder / f".taken-{state}").touch(exist_ok=False)
            except FileExistsError:
                continue
            except OSError as error:
                raise _not_created(folder, error.strerror or str(error)) from error
            return True
        time.sleep(GRACE_SECONDS / 50)
    return False


def wait_for(folder: Path, seconds: float = 60.0) -> Path:
    """The run folder that rank 0 (or an earlier start of the same job) makes.

    Raises:
        UserError: it does not appear.
    """
    end = time.monotonic() + seconds
    while not (folder / CONFIG).is_file():
        if time.monotonic() > end:
            raise UserError(f"the run folder '{folder}' did not appear", "output.root", "put it on a shared disk")
        time.sleep(0.1)
    return folder


def link_latest(folder: Path) -> None:
    """Points ``latest`` beside a run (or sweep) folder at it, in one step."""
    link = folder.parent / LATEST
    if link.exists() and not link.is_symlink():
        return  # somebody's own folder
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".link-"))
    try:
        (temporary / LATEST).symlink_to(folder.name, target_is_directory=True)
        os.replace(temporary / LATEST, link)
    finally:
        (temporary / LATEST).unlink(missing_ok=True)
        temporary.rmdir()


def write_config(folder: Path, cfg: DictConfig) -> None:
    """Keeps the resolved config (without what widens the allowlist: a file must not) and the versions it ran with.

    ``core.run.places`` made its paths absolute; those below ``TRIVIUM_DATA`` keep the variable.
    """
    values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    values["trivium"] = {key: value for key, value in values.get("trivium", {}).items() if key != "allow"}
    with atomic_write(folder / CONFIG) as temporary:
        temporary.write_text(OmegaConf.to_yaml(OmegaConf.create(located(escape(values)))), encoding="utf-8")
    versions = {"python": platform.python_version(), "platform": platform.platform(), "cpus": os.cpu_count()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    with atomic_write(folder / VERSIONS) as temporary:
        temporary.write_text(
            json.dumps({**versions, "command": sys.argv}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def is_begun(folder: Path) -> bool:
    """Whether a run wrote its config here."""
    return (folder / CONFIG).is_file()


def is_done(folder: Path) -> bool:
    """Whether a run ended in its own way (with exit status 0 or 3)."""
    return read_state(folder).get("state") == "completed"


def find(name: str, root: Path, domain: str, key: str = "run", sweeps: bool = False) -> Path:
    """The folder of a trained run: a path, or ``latest`` for the domain's newest one that ended.

    Args:
        name: what the user gave.
        root: of all runs.
        domain: short name.
        key: it was given for.
        sweeps: whether the folder of a sweep will do.

    Raises:
        UserError: there is none.
    """
    if name == LATEST:
        below = root / domain / "train"
        ended = [path.parent for path in below.rglob(STATE) if (path.parent / WEIGHTS).is_file()]
        trained = [path for path in ended if is_done(path)]
        if not trained:
            raise UserError(f"no trained run below '{below}'", f"{key}={LATEST}", "train one, or give its folder")
        return max(trained, key=lambda path: (path / STATE).stat().st_mtime_ns).resolve()
    path = Path(name)
    if is_begun(path):
        return path
    if not path.is_dir():
        raise UserError(f"{key} '{name}' does not exist", todo="give the folder of a run, or latest")
    jobs = sorted(inner.parent.relative_to(path).as_posix() for inner in path.glob(f"*/{CONFIG}"))
    if jobs and sweeps:
        return path
    if jobs:
        shown = ", ".join(jobs[:5]) + (" ..." if len(jobs) > 5 else "")
        raise UserError(f"{key} '{name}' is a sweep", todo=f"give one of its runs: {shown}")
    raise UserError(f"{key} '{name}' is no run folder: it has no {CONFIG}", todo="give the folder of a run, or latest")


def members(folder: Path) -> list[Path]:
    """The run itself, or the numbered runs of a sweep in their order.

    Raises:
        UserError: it is neither.
    """
    if is_begun(folder):
        return [folder]
    jobs = [path for path in folder.iterdir() if path.name.isdigit() and path.is_dir()] if folder.is_dir() else []
    if not jobs:
        raise UserError(f"'{folder}' is no run folder: it has no {CONFIG}", todo="give the folder of a trained run")
    return sorted(jobs, key=lambda path: int(path.name))


def _not_created(folder: Path, reason: str) -> UserError:
    return UserError(f"cannot create the run folder '{folder}': {reason}", "output.root", "choose a writable folder")
