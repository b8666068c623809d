"""Repeats the kill test with other seeds: ``python -m tests.soak.resume [N]`` (about half a minute each)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from tests.core.training.exact import WEIGHTS, main


def soak(repeats: int) -> int:
    """Kills ``repeats`` runs five times each; the number of runs that ended elsewhere than an undisturbed one."""
    torch.set_num_threads(1)
    failures = 0
    for seed in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            result = main(Path(folder), seed, ranks=False)
        equal = all(result[name] for name in (WEIGHTS, "metrics.csv", "updater.pt"))
        failures += not equal
        kills = " ".join(f"{kill['when']}@{kill['step']}" for kill in result["kills"][:-1])
        print(f"seed_{seed}: {'equal' if equal else 'DIFFERENT'} ({kills})", flush=True)
    print(f"different: {failures}")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(soak(int(sys.argv[1]) if len(sys.argv) > 1 else 20))
