"""The folder of a run: created exclusively, with a link to the latest; found again by ``run=`` and ``resume=``."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from importlib import metadata
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from core.files import atomic_write
from core.types import UserError

LATEST = "latest"
DONE = "done.json"  # a run that ended; its exit status
PACKAGES = ("trivium", "torch", "lightning", "open_clip_torch", "timm", "hydra-core", "numpy", "openslide-python")


def create(folder: Path) -> Path:
    """Makes a run folder that nobody else has; a taken name gets a suffix.

    Raises:
        UserError: it cannot be created.
    """
    for number in range(1000):
        chosen = folder if number == 0 else folder.with_name(f"{folder.name}-{number}")
        try:
            chosen.parent.mkdir(parents=True, exist_ok=True)
            chosen.mkdir()
        except FileExistsError:
            if not folder.parent.is_dir():
                break
            continue
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"cannot create the run folder '{chosen}': {reason}", "output.root", "choose a writable folder"
            ) from error
        return chosen
    raise UserError(f"cannot create the run folder '{folder}'", "output.root", "choose a writable folder")


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
        temporary.rmdir()


def write_config(folder: Path, cfg: DictConfig) -> None:
    """Keeps the resolved config and the versions it ran with."""
    with atomic_write(folder / "config.yaml") as temporary:
        temporary.write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    with atomic_write(folder / "versions.json") as temporary:
        temporary.write_text(json.dumps(versions, indent=1) + "\n", encoding="utf-8")


def finish(folder: Path, status: int) -> None:
    """Marks a run as ended."""
    with atomic_write(folder / DONE) as temporary:
        temporary.write_text(json.dumps({"exit_status": status}) + "\n", encoding="utf-8")


def is_done(folder: Path) -> bool:
    """Whether a run ended."""
    return (folder / DONE).is_file()


def find(name: str, root: Path, domain: str, key: str = "run") -> Path:
    """The folder of a trained run: a path, or ``latest`` for the domain's newest one that ended.

    Raises:
        UserError: there is none.
    """
    if name == LATEST:
        trained = [
            path.parent
            for path in (root / domain / "train").rglob(DONE)
            if (path.parent / "model.safetensors").is_file()
        ]
        if not trained:
            raise UserError(f"no trained run below '{root / domain / 'train'}'", key, "train one, or give its folder")
        return max(trained, key=lambda path: (path / DONE).stat().st_mtime_ns)
    path = Path(name)
    if not (path / "config.yaml").is_file():
        what = "is no run folder: it has no config.yaml" if path.is_dir() else "does not exist"
        raise UserError(f"{key} '{name}' {what}", todo="give the folder of a run, or 'latest'")
    return path
