"""Runs verbs as a user would, in a temporary folder, and prints ``POINT PASS|FAIL|SKIP name: value`` lines."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("TRIVIUM_DATA", REPOSITORY.parent / "shared" / "data"))


@dataclass(frozen=True)
class Outcome:
    """What a command did: its status, output, wall time, and the peak resident memory of its whole process tree."""

    command: str
    status: int
    output: str
    seconds: float
    peak_gib: float

    def value(self, name: str) -> float:
        """The number of a printed ``name: value`` line.

        Raises:
            KeyError: the command printed no such line.
        """
        found = re.search(rf"^\s*{re.escape(name)}: *([-+0-9.einfa]+)", self.output, re.MULTILINE)
        if not found:
            raise KeyError(f"'{self.command}' printed no line '{name}: ...'")
        return float(found.group(1))


@dataclass
class Report:
    """Prints one line a check and remembers whether any failed."""

    failed: int = 0
    checked: int = 0
    skipped: int = 0

    def check(self, point: str, holds: bool, name: str, value: Any) -> None:
        self.checked += 1
        self.failed += not holds
        print(f"{point} {'PASS' if holds else 'FAIL'} {name}: {value}", flush=True)

    def skip(self, point: str, name: str, reason: str) -> None:
        self.skipped += 1
        print(f"{point} SKIP {name}: {reason}", flush=True)

    def show(self, point: str, name: str, value: Any) -> None:
        """A figure without a bound: printed, not judged."""
        print(f"{point} NOTE {name}: {value}", flush=True)


def _tree_memory(process: psutil.Process) -> int:
    """Proportional set size of a process and its descendants: shared pages count once."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def run(
    arguments: Sequence[str],
    folder: Path,
    environment: dict[str, str] | None = None,
    watch_memory: bool = False,
    preexec: Callable[[], None] | None = None,
    timeout: float = 7200,
) -> Outcome:
    """Runs ``python ARGUMENTS`` in ``folder`` and waits; standard error is part of the output."""
    command = [sys.executable, *arguments]
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"TRIVIUM_DATA": str(DATA), "COLUMNS": "160"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=preexec,
    )
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        observed = psutil.Process(process.pid)
        while not done.wait(0.25):
            try:
                peak = max(peak, _tree_memory(observed))
            except psutil.NoSuchProcess:
                return

    watcher = threading.Thread(target=watch, daemon=True)
    if watch_memory:
        watcher.start()
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        done.set()
        if process.poll() is None:
            process.kill()
    return Outcome(" ".join(arguments), process.returncode, output, time.monotonic() - started, peak / 2**30)


def verb(name: str, *keys: str, folder: Path, domain: str = "pathology", **options: Any) -> Outcome:
    """``python -m domains.<domain>.<name> KEYS``."""
    return run(["-m", f"domains.{domain}.{name}", *keys], folder, **options)


def latest(folder: Path, verb_name: str, domain: str = "pathology", experiment: str | None = None) -> Path:
    """The newest run folder of a verb below ``folder/outputs``."""
    below = folder / "outputs" / domain / verb_name
    links = sorted(below.glob(f"{experiment or '*'}/latest"), key=lambda link: link.stat().st_mtime)
    if not links:
        raise FileNotFoundError(f"no run of {verb_name} below {below}")
    return links[-1].resolve()


def summary(run_folder: Path) -> dict[str, dict[str, Any]]:
    """Figures of a run's ``summary.json``, or of a sweep's ``pooled.json``, by name; a bound that is null is NaN."""
    pooled = run_folder / "pooled.json"
    figures = json.loads((pooled if pooled.is_file() else run_folder / "summary.json").read_text())
    if isinstance(figures, dict):
        figures = figures["figures"]
    for figure in figures:
        figure.update({key: math.nan for key in ("value", "low", "high") if figure[key] is None})
    return {figure["name"]: figure for figure in figures}


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def status(run_folder: Path) -> dict[str, dict[str, str]]:
    """Rows of ``status.csv`` by input."""
    return {row["path"]: row for row in rows(run_folder / "status.csv")}


def main(points: dict[str, Callable[[Report, Path], None]], argv: Sequence[str]) -> int:
    """Runs the wanted points (all by default), each in a folder of its own; status 1 when any failed or was skipped."""
    unknown = [point for point in argv if point not in points]
    if unknown:
        print(f"no point {', '.join(unknown)}; there are {', '.join(points)}")
        return 2
    report = Report()
    for point in argv or points:
        with tempfile.TemporaryDirectory(prefix=f"acceptance-{point}-") as folder:
            try:
                points[point](report, Path(folder))
            except Exception as error:  # the other points must still be tried
                report.check(point, False, "ended early", f"{type(error).__name__}: {error}")
    print(f"{report.checked - report.failed} passed, {report.failed} failed, {report.skipped} skipped")
    return int(report.failed + report.skipped > 0)  # a skip is no pass
