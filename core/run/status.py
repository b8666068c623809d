"""Fates on disk: ``status.csv`` (every input), ``failures.csv`` (those that are not ok), and the exit status."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.files import atomic_write
from core.types import Fate, UserError

STATUS, FAILURES, STATE = "status.csv", "failures.csv", "status.json"
SCHEMA_VERSION = 1


def write_status(folder: Path, fates: Sequence[Fate]) -> None:
    """Writes both tables: path, status, reason, then every count that any fate has."""
    columns = list(dict.fromkeys(name for fate in fates for name in fate.counts))
    for name, rows in ((STATUS, fates), (FAILURES, [fate for fate in fates if fate.status != "ok"])):
        with atomic_write(folder / name) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "status", "reason", *columns])
            writer.writerows(
                [fate.path, fate.status, fate.reason, *(fate.counts.get(column, "") for column in columns)]
                for fate in rows
            )


def exit_status(fates: Sequence[Fate], allow_failures: int | str | bool = 0) -> int:
    """3 when more inputs were refused or partial than allowed, else 0.

    Args:
        allow_failures: a number of inputs, or ``all``.

    Raises:
        UserError: ``allow_failures`` is neither.
    """
    failures = sum(fate.status != "ok" for fate in fates)
    if allow_failures == "all" or allow_failures is True:  # 1 == True
        return 0
    if not isinstance(allow_failures, int) or allow_failures < 0:
        raise UserError(f"allow_failures is '{allow_failures}'", todo="give a number of inputs, or all")
    return 3 if failures > allow_failures else 0


def write_state(folder: Path, **values: Any) -> None:
    """Writes ``status.json``: what the run is at and how it ended."""
    with atomic_write(folder / STATE) as temporary:
        content = {"schema_version": SCHEMA_VERSION, **values}
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """``status.json`` of a run; empty where there is none.

    Raises:
        UserError: it was written by a newer version.
    """
    path = folder / STATE
    if not path.is_file():
        return {}
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if state.get("schema_version", 1) > SCHEMA_VERSION:
        raise UserError(f"'{path}' has schema version {state['schema_version']}, newer than {SCHEMA_VERSION}",
                        todo="update trivium")  # fmt: skip
    return state


def failure_count(folder: Path) -> int:
    """Rows of ``failures.csv``."""
    path = folder / FAILURES
    if not path.is_file():
        return 0
    with open(path, newline="", encoding="utf-8") as file:
        return sum(1 for _ in csv.DictReader(file))
