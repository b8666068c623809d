"""Packed bags against a loop over bags and against padding; balance over ranks; memory of a bag of 100,000 tiles.

``python -m tests.benchmarks.mil [NAME ...]``, Linux only. One step is forward and backward of gated ABMIL with 512
features, a hidden layer of 512 and 256 rows of attention, over 32 bags of log-normal length (sigma 1), with what the
suite itself trains with (:class:`core.mil.tasks.classification.BagClassification`, ``core.mil.step.TokenGroups``). All
forms share the weights, have their inputs ready, and take turns; a ratio is one of medians of five.
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core.mil.aggregators.gated_abmil import GatedABMIL
from core.mil.bags import Bag, PackedBags
from core.mil.data import BagBatch
from core.mil.sampler import balanced
from core.mil.step import TokenGroups
from core.mil.tasks.classification import BagClassification
from core.objectives.exchange import LocalExchange

BAGS, REPEATS, DRAWS, RANKS, TOKENS = 32, 5, 20, 4, 8192


def draw_lengths(median: int, seed: int) -> np.ndarray:
    """Tiles of 32 bags, log-normal with sigma 1."""
    return np.maximum(1, np.random.default_rng(seed).lognormal(np.log(median), 1.0, BAGS)).astype(np.int64)


def make_task(width: int) -> BagClassification:
    torch.manual_seed(0)
    return BagClassification(GatedABMIL(width, hidden=(512,), attention=256), classes=2)


def make_batch(lengths: np.ndarray) -> BagBatch:
    """A batch with the longest bag first, as the data module hands it to a rank."""
    lengths = lengths[balanced(lengths, 1)[0]]
    features = torch.randn(int(lengths.sum()), 512, generator=torch.Generator().manual_seed(1))
    ids = tuple(str(number) for number in range(len(lengths)))
    offsets = torch.tensor([0, *lengths.tolist()]).cumsum(0)
    bags = PackedBags(features, torch.zeros(len(features), 2), offsets, ids)
    return BagBatch(0, bags, {"label": torch.arange(len(lengths)) % 2}, ids)


# --------------------------------------------------------------------------------------------------------------------
# The forms of a step: each leaves the same gradient in the parameters


def packed(task: BagClassification, batch: BagBatch) -> None:
    TokenGroups(TOKENS).run(task, batch, LocalExchange(), lambda loss, last: loss.backward())


def logits_of(task: BagClassification, tiles: Tensor) -> Tensor:
    """One bag by plain torch, [T, 512] -> [1, 2]."""
    hidden = task.aggregator.tiles(tiles)
    attention = task.aggregator.scores(hidden).softmax(dim=0)
    return task.head(attention.T @ hidden)


def loop_with_a_backward_a_bag(task: BagClassification, bags: Sequence[Tensor], labels: Tensor) -> None:
    for tiles, label in zip(bags, labels, strict=True):
        (F.cross_entropy(logits_of(task, tiles), label[None]) / len(bags)).backward()


def loop_with_one_backward(task: BagClassification, bags: Sequence[Tensor], labels: Tensor) -> None:
    F.cross_entropy(torch.cat([logits_of(task, tiles) for tiles in bags]), labels).backward()


def padded(task: BagClassification, tiles: Tensor, inside: Tensor, labels: Tensor) -> None:
    """Every bag as long as the longest; [B, N, 512] with a mask [B, N, 1]."""
    hidden = task.aggregator.tiles(tiles)
    attention = task.aggregator.scores(hidden).masked_fill(~inside, -torch.inf).softmax(dim=1)
    F.cross_entropy(task.head((attention.mT @ hidden)[:, 0]), labels).backward()


def forms(task: BagClassification, batch: BagBatch, with_padding: bool) -> dict[str, Callable[[], None]]:
    lengths, labels = batch.bags.offsets.diff(), batch.labels["label"]
    bags = torch.split(batch.bags.features, lengths.tolist())
    made: dict[str, Callable[[], None]] = {
        "packed": lambda: packed(task, batch),
        "loop_a": lambda: loop_with_a_backward_a_bag(task, bags, labels),
        "loop_b": lambda: loop_with_one_backward(task, bags, labels),
    }
    if with_padding:
        tiles = torch.nn.utils.rnn.pad_sequence(list(bags), batch_first=True)
        inside = (torch.arange(tiles.shape[1]) < lengths[:, None])[..., None]
        made["padded"] = lambda: padded(task, tiles, inside, labels)
    return made


def seconds(task: BagClassification, made: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median time of each form, in turns; refuses to time forms that do not compute the same."""
    gradients = {}
    for name, form in made.items():  # warm up
        task.zero_grad()
        form()
        gradients[name] = torch.cat([p.grad.flatten().clone() for p in task.parameters() if p.grad is not None])
    for name, gradient in gradients.items():
        error = float((gradient - gradients["loop_a"]).norm() / gradients["loop_a"].norm())
        if not error < 1e-4:
            raise RuntimeError(f"the gradient of {name} is off by {error:.1e}")
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(REPEATS):
        for name, form in made.items():
            task.zero_grad()
            start = time.perf_counter()
            form()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(several) for name, several in times.items()}


# --------------------------------------------------------------------------------------------------------------------
# What is printed


def large_bags() -> None:
    task = make_task(512)
    median = seconds(task, forms(task, make_batch(draw_lengths(4000, 0)), with_padding=False))
    print(f"packed_s: {median['packed']:.3f}")
    print(f"loop_over_packed: {min(median['loop_a'], median['loop_b']) / median['packed']:.3f}", flush=True)


def small_bags() -> None:
    task, loops, pads, steps = make_task(512), [], [], []
    for seed in range(DRAWS):
        median = seconds(task, forms(task, make_batch(draw_lengths(50, seed)), with_padding=True))
        loops.append(min(median["loop_a"], median["loop_b"]) / median["packed"])
        pads.append(median["padded"] / median["packed"])
        steps.append(median["packed"])
    print(f"packed_small_s: {statistics.median(steps):.4f}")
    print(f"loop_over_packed_small: {statistics.median(loops):.3f}")
    print(f"padded_over_packed: {statistics.median(pads):.3f}", flush=True)


def ranks() -> None:
    excess = []
    for seed in range(DRAWS):
        lengths = draw_lengths(4000, seed)
        tiles = [int(lengths[part].sum()) for part in balanced(lengths, RANKS)]
        excess.append(max(tiles) / (sum(tiles) / RANKS) - 1)
    print(f"rank_imbalance: {statistics.median(excess):.4f}")
    print(f"rank_imbalance_worst: {max(excess):.4f}", flush=True)


def memory() -> None:
    """In a process of its own, whose peak nothing else has raised."""
    subprocess.run([sys.executable, "-m", "tests.benchmarks.mil", "memory_here"], check=True)


def memory_here() -> None:
    """Reads a bag of 100,000 tiles by 1,024, trains a step on it and predicts with attributions."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident_gib("VmRSS")
    random, features = np.random.default_rng(0), np.empty((100_000, 1024), np.float16)
    for start in range(0, len(features), 10_000):
        features[start : start + 10_000] = random.standard_normal((10_000, 1024), np.float32)
    bag = Bag("slide", features, np.zeros((len(features), 2), np.float32), 256.0, "um", "encoder@0")
    task, labels = make_task(1024), torch.zeros(1, dtype=torch.int64)
    batch = BagBatch(0, PackedBags.pack([bag]), {"label": labels}, ("slide",))
    start_s = time.perf_counter()
    packed(task, batch)
    print(f"train_100k_s: {time.perf_counter() - start_s:.1f}")
    ours = torch.cat([p.grad.flatten() for p in task.parameters() if p.grad is not None])
    prediction = task.predict(batch.bags)
    task.contributions(batch.bags)
    print(f"peak_gib_100k: {resident_gib('VmHWM') - before:.2f}")
    task.zero_grad()
    logits = logits_of(task, batch.bags.features)  # in one piece, by plain torch
    F.cross_entropy(logits, labels).backward()
    theirs = torch.cat([p.grad.flatten() for p in task.parameters() if p.grad is not None])
    print(f"chunked_gradient_error: {float((ours - theirs).norm() / theirs.norm()):.1e}")
    wanted = logits.detach().softmax(dim=1)
    print(f"chunked_prediction_error: {float((torch.from_numpy(prediction) - wanted).norm() / wanted.norm()):.1e}")
    print(f"peak_gib_100k_unchunked: {resident_gib('VmHWM') - before:.2f}", flush=True)


def resident_gib(name: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) / 2**20


def main(names: Sequence[str]) -> None:
    parts = {part.__name__: part for part in (large_bags, small_bags, ranks, memory, memory_here)}
    for name in names or ("ranks", "small_bags", "large_bags", "memory"):
        parts[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
