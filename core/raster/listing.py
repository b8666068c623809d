"""Which pictures lie under a path: every file becomes an input, or is named as ignored."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from core.raster.reader import Identifies, Reader
from core.types import UserError


@dataclass(frozen=True)
class Input:
    """One picture, whatever the number of its files."""

    path: Path
    name: str  # relative to the folder that was listed, with forward slashes: names its outputs
    files: int = 1
    problem: str = ""  # why it cannot even be listed


@dataclass(frozen=True)
class Listing:
    """What lies under a path."""

    inputs: tuple[Input, ...]  # sorted by name
    ignored: tuple[str, ...]  # names of files that are clearly no pictures


def list_inputs(reader: Reader, source: Path) -> Listing:
    """Lists a file, or a folder with everything below it; files of one series are one input, under the first name.

    A reader that does not identify files takes each for a picture of its own.

    Raises:
        UserError: there is nothing at ``source``, or no picture in it.
    """
    if source.is_file():
        return Listing((Input(source, source.name),), ())
    if not source.is_dir():
        raise UserError(f"input '{source}' does not exist", todo="set input= to a picture or a folder of pictures")
    problems: list[Input] = []

    def refused(error: OSError) -> None:
        folder = Path(error.filename)
        name = folder.relative_to(source).as_posix()
        problems.append(Input(folder, name, problem=f"cannot be listed: {error.strerror}"))

    series: dict[str, list[Path]] = {}
    ignored = []
    for folder, folders, names in os.walk(source, onerror=refused):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            key = reader.identify(path) if isinstance(reader, Identifies) else str(path)
            if key is None:
                ignored.append(path.relative_to(source).as_posix())
            else:
                series.setdefault(key, []).append(path)
    found = [Input(min(files), min(files).relative_to(source).as_posix(), len(files)) for files in series.values()]
    if not found and not problems:
        raise UserError(
            f"no picture under '{source}' ({len(ignored)} other files)", todo="set input= to another folder"
        )
    return Listing(tuple(sorted(found + problems, key=lambda item: item.name)), tuple(sorted(ignored)))
