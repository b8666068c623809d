"""Gloo ranks for tests: processes that are started once a session and then take one function after another."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any


class Pool:
    """``Pool.run(function, size, ...)`` calls a module-level function on every rank of a fresh process group.

    Workers start when first needed and have one thread each. They are forked from a server that imports torch once and
    runs nothing: importing it in every one costs seconds each, and forking the test process, whose threads work, hangs.
    If a rank fails or hangs, all are ended and the next call starts new ones.
    """

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["torch", "torch.nn.parallel.distributed", "torch._dynamo"])
        self.workers: list[tuple[Any, Connection]] = []
        self.folder = tempfile.TemporaryDirectory(prefix="ranks")
        self.calls = 0

    def run(self, function: Callable[..., Any], size: int, *arguments: Any, timeout: float = 180) -> list[Any]:
        """Results of ``function(*arguments)`` by rank; the default process group has ``size`` ranks."""
        self.calls += 1
        while len(self.workers) < size:
            self.workers.append(_start(self.context))
        meeting = Path(self.folder.name) / f"meeting{self.calls}"
        job = pickle.dumps((function, arguments))
        pending = {}
        for rank, (_, connection) in enumerate(self.workers[:size]):
            connection.send((rank, size, str(meeting), job))
            pending[connection] = rank
        results: list[Any] = [None] * size
        deadline = time.monotonic() + timeout
        while pending:
            ready = wait(list(pending), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                self.close()
                raise TimeoutError(f"ranks {sorted(pending.values())} of {size} did not end {function.__name__}")
            for connection in ready:
                rank = pending.pop(connection)
                failed, value = _receive(connection)
                if failed:
                    self.close()
                    raise RuntimeError(f"rank {rank} of {size} failed:\n{value}")
                results[rank] = value
        return results

    def close(self) -> None:
        for process, connection in self.workers:
            connection.close()
            process.kill()
            process.join()
        self.workers = []


def _receive(connection: Connection) -> tuple[bool, Any]:
    try:
        failed, payload = connection.recv()
    except EOFError:
        return True, "the process ended"
    return failed, payload if failed else pickle.loads(payload)


def _start(context: Any) -> tuple[Any, Connection]:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _serve(connection: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    while True:
        try:
            rank, size, meeting, job = connection.recv()
        except (EOFError, OSError):
            return  # the session has ended
        try:
            function, arguments = pickle.loads(job)
            dist.init_process_group(
                "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=timedelta(seconds=60)
            )
            # pickled here: torch's own way through a pipe shares memory that lives as long as this process
            answer = (False, pickle.dumps(function(*arguments)))
        except BaseException:
            answer = (True, traceback.format_exc())
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
        connection.send(answer)
