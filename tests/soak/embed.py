"""Kills `embed` at random moments and goes on: ``python -m tests.soak.embed [N]`` (some seconds a kill)."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from core.mil.features import EmbeddedFeatures, read_bag
from tests.core.raster.pictures import noise, write_slide
from tests.core.run.test_embed import ROOT, contents, plain_vit

SLIDES = 24


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
        start = time.monotonic()
        subprocess.run([*command, f"out={folder / 'whole'}"], cwd=ROOT, check=True, capture_output=True)
        seconds = time.monotonic() - start
        expected = contents(folder / "whole")
        done = partial = different = rounds = 0
        while done < kills:
            out = folder / f"killed {rounds}"
            with subprocess.Popen(
                [*command, f"out={out}"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as process:
                try:
                    process.wait(draw.uniform(0, seconds))
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    done += 1
            found = contents(out) if any(out.glob("[!.]*.h5")) else {}
            partial += sum(len(read_bag(path)) != 64 for path in EmbeddedFeatures().find(out).values()) if found else 0
            same = [all(np.array_equal(a, b) for a, b in zip(found[key], expected[key], strict=True)) for key in found]
            different += same.count(False)
            print(f"kills {done}: {len(found)} of {SLIDES} slides done, {same.count(False)} different", flush=True)
            rounds += len(found) == SLIDES  # the next begins anew
        print(f"kills: {done}\nrounds: {rounds}\npartial: {partial}\ndifferent: {different}")
        return int(partial + different > 0)


if __name__ == "__main__":
    sys.exit(soak(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
