"""How much the reader, the dataset and its workers cost over bare OpenSlide: ``python -m tests.benchmarks.reading``.

256 px, uint8, windows at random places of the real slide. Arms take turns within each of seven rounds, so that a busy
machine slows all of them; a ratio is the median over rounds. Decoded-tile caches are off: every read decodes.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import torch
from torch.utils.data import DataLoader

from core.data.manifest import Manifest
from core.data.pairs import PairDataset
from core.data.samplers import UniformSampler
from core.data.targets import Relations
from core.data.tiles import TileSource
from core.types import Geometry, Window
from domains.pathology.readers import SlideReader
from tests.domains.pathology.slides import SLIDES

SLIDE = SLIDES / "CMU-1-Small-Region.svs"
TILE_PX, MPP = 256, 0.499
BATCH, STEPS, ROUNDS = 32, 8, 7  # 256 reads an arm and round, 1,792 in all
TURN = 2  # batches an arm reads before the next one has its turn


def main() -> None:
    """Prints ``name: value`` lines."""
    if not SLIDE.is_file():
        sys.exit(f"the slide is not at {SLIDE}; set TRIVIUM_DATA to the folder that holds pathology/")
    torch.set_num_threads(1)
    with openslide.OpenSlide(SLIDE) as slide:
        width, height = slide.dimensions
    rng = np.random.default_rng(0)
    places = np.stack(
        [rng.integers(0, width - TILE_PX, BATCH * STEPS), rng.integers(0, height - TILE_PX, BATCH * STEPS)], 1
    )
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), places)
        for name, value in {**single(dataset, places), **parallel(dataset, places)}.items():
            print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")


def make_dataset(folder: Path, places: np.ndarray) -> PairDataset:
    """The dataset that training uses, over windows of one slide, without a cache, captions or augmentation."""
    table = folder / "manifest.csv"
    frame = pd.DataFrame({"path": str(SLIDE), "x": places[:, 0], "y": places[:, 1], "w": TILE_PX, "h": TILE_PX})
    frame.assign(id=[f"tile {row}" for row in range(len(frame))]).to_csv(table, index=False)
    tiles = TileSource(Manifest.read(table), SlideReader(), Geometry(TILE_PX, MPP), cache_gib=0)
    rows = np.arange(len(places))
    return PairDataset(
        tiles,
        rows,
        UniformSampler(rows, BATCH, 0),
        None,
        Relations(rows, np.zeros(len(rows), np.int64)),
        None,
        [f"tile {row}" for row in rows],
        None,
        None,
        0,
    )


def bare(slide: openslide.OpenSlide, place: np.ndarray) -> np.ndarray:
    """What a script would write."""
    x, y = place
    return np.asarray(slide.read_region((int(x), int(y)), 0, (TILE_PX, TILE_PX)).convert("RGB"))


def single(dataset: PairDataset, places: np.ndarray) -> dict[str, float | int]:
    """Bare OpenSlide, the reader and the dataset in one process, over the same windows in the same order."""
    slide, raster = openslide.OpenSlide(SLIDE), SlideReader().open(SLIDE)

    def with_openslide(step: int) -> np.ndarray:
        return np.stack([bare(slide, place) for place in places[dataset.sampler.batch(step)]])

    def with_reader(step: int) -> np.ndarray:
        windows = [Window(float(x), float(y), TILE_PX, TILE_PX) for x, y in places[dataset.sampler.batch(step)]]
        return np.stack([raster.read(window, (TILE_PX, TILE_PX)).values for window in windows])

    def with_dataset(step: int) -> np.ndarray:
        return dataset.batch(step).images.numpy()

    expected = with_openslide(0)
    if not np.array_equal(with_reader(0), expected) or not np.array_equal(
        with_dataset(0).transpose(0, 2, 3, 1), expected
    ):
        sys.exit("the arms read different pixels")
    arms: tuple[Callable[[int], np.ndarray], ...] = (with_openslide, with_reader, with_dataset)
    seconds = np.zeros((ROUNDS, len(arms)))
    for turn in range(ROUNDS):
        for start in range(0, STEPS, TURN):
            order = np.roll(np.arange(len(arms)), turn + start // TURN)  # no arm always comes after the same one
            for arm in order:
                before = time.perf_counter()
                for step in range(start, start + TURN):
                    arms[arm](turn * STEPS + step)
                seconds[turn, arm] += time.perf_counter() - before
    reads = BATCH * STEPS
    rates = reads / np.median(seconds, 0)
    return {
        "reads": reads * ROUNDS,
        "openslide_tiles_per_s": float(rates[0]),
        "reader_tiles_per_s": float(rates[1]),
        "dataset_tiles_per_s": float(rates[2]),
        "reader_over_openslide": statistics.median(seconds[:, 0] / seconds[:, 1]),
        "dataset_over_reader": statistics.median(seconds[:, 1] / seconds[:, 2]),
    }


def parallel(dataset: PairDataset, places: np.ndarray) -> dict[str, float]:
    """What a second worker gains, beside what a second bare reading process gains on the same machine."""
    with bare_processes(places) as processes, loaders(dataset) as (one, two):
        seconds = np.array(
            [
                [_bare_time(processes[:1]), _bare_time(processes) / 2, _loader_time(one), _loader_time(two)]
                for _ in range(ROUNDS)
            ]
        )
    bare_gain = statistics.median(seconds[:, 0] / seconds[:, 1])
    worker_gain = statistics.median(seconds[:, 2] / seconds[:, 3])
    return {
        "bare2_over_1": bare_gain,
        "workers2_over_1": worker_gain,
        "workers2_over_bare2": worker_gain / bare_gain,
    }


@contextmanager
def loaders(dataset: PairDataset) -> Iterator[tuple[DataLoader, DataLoader]]:
    """Loaders with one and two workers that stay alive between rounds, warmed up."""
    made = [
        DataLoader(dataset, batch_size=None, sampler=range(STEPS), num_workers=count, persistent_workers=True)
        for count in (1, 2)
    ]
    for loader in made:
        _loader_time(loader)
    yield made[0], made[1]


def _loader_time(loader: DataLoader) -> float:
    before = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - before


def _serve(places: np.ndarray, pipe: Connection) -> None:
    with openslide.OpenSlide(SLIDE) as slide:
        while pipe.recv():
            for place in places:
                bare(slide, place)
            pipe.send(True)


@contextmanager
def bare_processes(places: np.ndarray) -> Iterator[list[Connection]]:
    """Two processes that read all places with bare OpenSlide whenever they are asked, warmed up."""
    context = multiprocessing.get_context("fork")
    pipes, running = [], []
    for _ in range(2):
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(places, there), daemon=True)
        process.start()
        pipes.append(here)
        running.append(process)
    _bare_time(pipes)
    yield pipes
    for pipe, process in zip(pipes, running, strict=True):
        pipe.send(False)
        process.join()


def _bare_time(pipes: list[Connection]) -> float:
    """Seconds until every process has read all places once."""
    before = time.perf_counter()
    for pipe in pipes:
        pipe.send(True)
    for pipe in pipes:
        pipe.recv()
    return time.perf_counter() - before


if __name__ == "__main__":
    main()
