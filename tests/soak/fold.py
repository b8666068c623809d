"""Kills a fold of bags at random moments and goes on: ``python -m tests.soak.fold [N]`` (some seconds a kill).

Every start is a process of its own that runs the verb ``train``; a server that has imported everything forks it, so a
kill costs no imports.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.numpy import load_file

from tests.core.run.bag_cohort import write_cohort

IMPORTED = ("core.run.compose", "core.run.tables", "core.run.train", "core.run.bags", "matplotlib.figure",
            "matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg", "sklearn.linear_model",
            "sklearn.model_selection")  # fmt: skip
KEYS = ("experiment=bags", "aggregator=clam", "aggregator.hidden=32", "aggregator.attention=16", "data.split.folds=4",
        "data.split.fold=1", "data.split.fractions={val: 0.2, test: 0.0}", "sampler.bags_per_batch=8",
        "schedule.steps=150", "schedule.warmup_steps=10", "optimiser.lr=0.003", "trainer.checkpoint_every=7",
        "trainer.log_every=3", "data.workers=2", "+updater@updaters.ema=ema")  # fmt: skip
SERVER = multiprocessing.get_context("forkserver")


def soak(kills: int) -> int:
    """Kills folds ``kills`` times; 1 when a file was not whole, or an end differs from that of an undisturbed run."""
    draw, done, rounds, partial, different = random.Random(0), 0, 0, 0, 0
    SERVER.set_forkserver_preload(list(IMPORTED))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = write_cohort(folder, patients=32)
        given = [*KEYS, f"manifest={table}", f"bags.features={folder / 'features'}", f"output.root={folder}"]
        runs = folder / "pathology" / "train" / "bags"
        _start(["--help"], folder / "log", None)  # the server imports
        status, seconds = _start([*given, "output.id=whole"], folder / "log", None)
        if status:
            print((folder / "log").read_text())
            return 1
        whole = ended(runs / "whole")
        while done < kills:
            run, status = runs / f"killed{rounds}", -signal.SIGKILL
            while status == -signal.SIGKILL:
                begun = (run / "config.yaml").is_file()
                if run.is_dir() and not begun:
                    shutil.rmtree(run)  # it died before it had said what it is
                keys = [f"resume={run}", f"output.root={folder}"] if begun else [*given, f"output.id={run.name}"]
                wait = draw.uniform(0, seconds) if done < kills else None
                status, _ = _start(keys, folder / "log", wait)
                done += status == -signal.SIGKILL
                partial += len(broken(run))
                if _completed(run):  # killed after its last word
                    status = 0
            if status:
                print((folder / "log").read_text())
                return 1
            found = ended(run)
            wrong = [part for part in whole if found[part] != whole[part]]
            different, rounds = different + bool(wrong), rounds + 1
            print(f"kills {done}: round {rounds} ended, different: {', '.join(wrong) or 'nothing'}", flush=True)
    print(f"kills: {done}\nrounds: {rounds}\npartial: {partial}\ndifferent: {different}")
    return int(partial + different > 0)


def ended(run: Path) -> dict[str, Any]:
    """Weights, predictions, log and figures of a run, to be compared."""
    return {
        "weights": {key: value.tobytes() for key, value in load_file(run / "model.safetensors").items()},
        "predictions": pd.read_parquet(run / "items.parquet").to_json(double_precision=15),
        "log": (run / "metrics.csv").read_bytes(),
        "figures": json.loads((run / "summary.json").read_text())["figures"],
        "fates": (run / "status.csv").read_bytes(),
    }


def broken(run: Path) -> list[str]:
    """Files under their own names that cannot be read to the end."""
    readers = {".json": lambda path: json.loads(path.read_text()), ".safetensors": load_file,
               ".parquet": pd.read_parquet, ".ckpt": _read_archive, ".csv": _read_table}  # fmt: skip
    wrong = []
    for path in run.rglob("*") if run.is_dir() else ():
        if path.suffix in readers and not path.name.startswith("."):  # hidden ones are being written
            try:
                readers[path.suffix](path)
            except Exception as error:  # whatever a library says of half a file
                wrong.append(f"{path.name}: {error}")
    return wrong


def _completed(run: Path) -> bool:
    state = run / "status.json"
    return state.is_file() and json.loads(state.read_text())["state"] == "completed"


def _read_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:  # as torch writes checkpoints
        if archive.testzip() is not None:
            raise ValueError("a member is damaged")


def _read_table(path: Path) -> None:
    if path.stat().st_size and not path.read_text().endswith("\n"):
        raise ValueError("its last row has no end")


def _start(arguments: Sequence[str], log: Path, wait: float | None) -> tuple[int, float]:
    """Runs the verb in a new process, killed after ``wait`` seconds; its exit status, and for how long it ran."""
    process = SERVER.Process(target=_run, args=(list(arguments), str(log)))
    start = time.monotonic()
    process.start()
    process.join(wait)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return int(process.exitcode), time.monotonic() - start


def _run(arguments: list[str], log: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    from core.run.entry import main

    sys.exit(main("domains.pathology", "train", arguments))


if __name__ == "__main__":
    sys.exit(soak(int(sys.argv[1]) if len(sys.argv) > 1 else 25))
