"""Forward and backward of the softmax objective against open_clip's ClipLoss, interleaved in one process.

``python -m tests.benchmarks.objectives``: B = 4096 pairs, D = 512, float32, one thread (with more, what
else the machine does decides). Memory is the peak resident size of a step above its size before; Linux only.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn import functional as F

from core.objectives.exchange import LocalExchange
from core.objectives.softmax import SoftmaxContrastive
from core.types import Policy, Targets

BATCH, WIDTH, REPEATS = 4096, 512, 7


def resident_mib(name: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) / 1024


def step(loss: Callable[[Tensor, Tensor, Tensor], Tensor], images: Tensor, texts: Tensor) -> tuple[float, float]:
    """(seconds, MiB of peak memory) of one forward and backward pass."""
    inputs = [part.clone().requires_grad_() for part in (images, texts)]
    scale = torch.tensor(14.0, requires_grad=True)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the other one left behind would hide what this one takes
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start = resident_mib("VmRSS"), time.perf_counter()
    loss(*inputs, scale).backward()
    seconds = time.perf_counter() - start
    return seconds, resident_mib("VmHWM") - before


def main() -> None:
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    images, texts = [F.normalize(torch.randn(BATCH, WIDTH, generator=random), dim=1) for _ in range(2)]
    number, none = torch.arange(BATCH), torch.zeros(0, dtype=torch.int64)
    group, sets = number // 4, torch.zeros(BATCH + 1, dtype=torch.int64)
    splits = (0, BATCH)
    targets = Targets(number, number, group, group, number, number, sets, none, none.to(torch.int8), splits, splits)
    theirs, exchange = ClipLoss(), LocalExchange()
    ours = {
        "diagonal": SoftmaxContrastive(),
        "graph": SoftmaxContrastive(Policy.graph()),  # groups of four, relations looked up
    }
    losses: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"open_clip": theirs} | {
        name: lambda i, t, s, objective=objective: objective(i, t, targets, s, None, exchange).loss
        for name, objective in ours.items()
    }
    for loss in losses.values():
        step(loss, images, texts)  # warm up
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in losses}
    for _ in range(REPEATS):
        for name, loss in losses.items():
            measured[name].append(step(loss, images, texts))
    seconds = {name: statistics.median(pair[0] for pair in pairs) for name, pairs in measured.items()}
    memory = {name: statistics.median(pair[1] for pair in pairs) for name, pairs in measured.items()}
    print(f"open_clip_s: {seconds['open_clip']:.3f}")
    print(f"open_clip_mib: {memory['open_clip']:.0f}")
    print(f"time_over_open_clip: {seconds['diagonal'] / seconds['open_clip']:.3f}")
    print(f"memory_over_open_clip: {memory['diagonal'] / memory['open_clip']:.3f}")
    print(f"graph_time_over_open_clip: {seconds['graph'] / seconds['open_clip']:.3f}")
    print(f"graph_memory_over_open_clip: {memory['graph'] / memory['open_clip']:.3f}")


if __name__ == "__main__":
    main()
