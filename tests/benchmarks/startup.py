"""Seconds until a person has an answer: ``python -m tests.benchmarks.startup`` prints ``name: value`` lines.

Medians of 5 new processes each, in turn: ``--help``, a mistyped key, a manifest that is not there.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 5
COMMANDS = {
    "help_s": (["--help"], 0),
    "wrong_key_s": (["schedule.stepps=3"], 2),
    "missing_file_s": (["manifest=nowhere/pairs.csv"], 2),
}


def seconds(arguments: list[str], status: int) -> float:
    """Wall time of one process.

    Raises:
        RuntimeError: it ended in another way than it should.
    """
    start = time.perf_counter()
    command = [sys.executable, "-m", "domains.pathology.train", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    spent = time.perf_counter() - start
    if done.returncode != status:
        raise RuntimeError(f"{' '.join(arguments)} ended with status {done.returncode}: {done.stderr[-500:]}")
    return spent


def main() -> None:
    """Measures and prints."""
    seconds(*COMMANDS["wrong_key_s"])  # files into the page cache
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(*command))
    for name, values in times.items():
        print(f"{name}: {statistics.median(values):.3f}")


if __name__ == "__main__":
    main()
