"""A job that a scheduler stops before its time is up goes back into the queue, and its run goes on in place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

OUT_OF_TIME = (signal.SIGUSR1, signal.SIGUSR2)  # what `--signal` sends; after SIGTERM it is SLURM that requeues, or not


def requeue(error: BaseException) -> bool:
    """Requeues the SLURM job of this process, if the error says that training stopped, with a checkpoint, at such a
    signal.

    Every stop has made at least one step, so a job cannot be requeued for ever without getting anywhere. SLURM ends
    this process soon after; the restarted job finds the run folder by its id (``folder.make_id``).

    Returns:
        Whether it was requeued. A job that must not be is left alone with a message.
    """
    job = _job()
    if not job or getattr(error, "received", None) not in OUT_OF_TIME:
        return False
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        said = (done.stderr or done.stdout).strip()
    except OSError as missing:
        done, said = None, str(missing)
    if done is None or done.returncode:
        print(f"the SLURM job {job} was not requeued: {said}", file=sys.stderr, flush=True)
        return False
    print(f"the SLURM job {job} is requeued and goes on in place", file=sys.stderr, flush=True)
    return True


def _job() -> str:
    array = os.environ.get("SLURM_ARRAY_JOB_ID", "")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID", "")
