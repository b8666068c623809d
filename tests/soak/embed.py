"""Kills `embed` at random moments and goes on: ``python -m tests.soak.embed [N]`` (some seconds a kill)."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.mil.features import EmbeddedFeatures, read_bag
from tests.core.raster.pictures import noise, write_slide
from tests.core.run.test_embed import ROOT, contents, plain_vit

SLIDES, TILES = 24, 64


def soak(kills: int) -> int:
    """Kills the verb ``kills`` times; 1 when a file was not whole, or features differ from an undisturbed run's."""
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        entry = plain_vit(folder / "weights")
        for number in range(SLIDES):
            write_slide(folder / "in" / f"{number:02d}.svs", [noise(512, 512, number)], 0.5)
        command = [sys.executable, "-m", "domains.pathology.embed", f"encoder={entry}", f"input={folder / 'in'}",
                   f"output.root={folder / 'runs'}", "batch_size=24"]  # fmt: skip
        shortest = _run(command, folder / "whole", None)[1]
        expected = contents(folder / "whole")
        done = partial = different = rounds = 0
        while done < kills:
            out = folder / f"killed {rounds}"
            was_killed, seconds = _run(command, out, draw.uniform(0, shortest))
            done += was_killed
            shortest = shortest if was_killed else min(shortest, seconds)
            found = contents(out) if any(out.glob("[!.]*.h5")) else {}
            partial += (
                sum(len(read_bag(path)) != TILES for path in EmbeddedFeatures().find(out).values()) if found else 0
            )
            wrong = [key for key in found if not all(map(np.array_equal, found[key], expected[key]))]
            different += len(wrong)
            print(f"kills {done}: {len(found)} of {SLIDES} slides done, {len(wrong)} different", flush=True)
            rounds += len(found) == SLIDES  # the next begins anew
        print(f"kills: {done}\nrounds: {rounds}\npartial: {partial}\ndifferent: {different}")
        return int(partial + different > 0)


def _run(command: Sequence[str], out: Path, wait: float | None) -> tuple[bool, float]:
    """Runs the verb, killed ``wait`` seconds after it began to write; whether it was, and for how long it wrote."""
    before = _writes(out)
    quiet = subprocess.DEVNULL
    with subprocess.Popen([*command, f"out={out}"], cwd=ROOT, stdout=quiet, stderr=quiet) as process:
        while process.poll() is None and _writes(out) == before:
            time.sleep(0.002)
        start = time.monotonic()
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
    return process.returncode == -signal.SIGKILL, time.monotonic() - start


def _writes(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()} if out.is_dir() else set()


if __name__ == "__main__":
    sys.exit(soak(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
