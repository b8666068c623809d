"""All the data of a run: what trains, what is evaluated, and loaders over any range of steps."""

from __future__ import annotations

import hashlib
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from core.data.augment import Augment
from core.data.captions import CaptionChooser
from core.data.manifest import Manifest
from core.data.pairs import Failed, PairDataset
from core.data.samplers import Sampler
from core.data.targets import Relations
from core.data.texts import Tokenize
from core.data.tiles import TileSource, chunks
from core.types import Batch, Fate, UserError


@dataclass(frozen=True)
class Batches:
    """Batches of the steps ``start`` to ``stop`` (exclusive); iterating again starts at ``start`` again."""

    dataset: PairDataset
    start: int
    stop: int
    workers: int

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[Batch]:
        for item in _load(self.dataset, range(self.start, self.stop), self.workers):
            if isinstance(item, Failed):
                raise item.error
            yield item


class PairsDataModule:
    """Joins manifest, tiles, sampler, captions and relations.

    Call :meth:`prepare` once before anything else: it decodes every picture and leaves broken ones out.

    Args:
        manifest: with splits.
        tiles: of the same manifest.
        sampler: makes the sampler from the groups of the training samples, [n] int64.
        captions: None for a task without text.
        relations: None for data without knowledge: every row is its own group.
        tokenize: captions to int64 [c, L]; called in the workers.
        augment: None changes nothing.
        classes: names in the order of their numbers; None: all labels of the manifest, sorted.
        seed: of captions and augmentation.
        workers: processes that load; the batches do not depend on it.
    """

    def __init__(
        self,
        manifest: Manifest,
        tiles: TileSource,
        sampler: Callable[[np.ndarray], Sampler],
        *,
        seed: int,
        captions: CaptionChooser | None = None,
        relations: Relations | None = None,
        tokenize: Tokenize | None = None,
        augment: Augment | None = None,
        classes: tuple[str, ...] | None = None,
        workers: int = 0,
    ) -> None:
        frame = manifest.frame
        self.manifest, self.tiles, self.seed, self.workers = manifest, tiles, seed, workers
        self.captions, self.tokenize, self.augment = captions, tokenize, augment
        self.relations = relations or Relations(np.arange(len(frame)), np.zeros(len(frame), np.int64))
        self.classes = classes or tuple(sorted({label for label in frame["label"] if label is not None}))
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.labels = np.array([numbers.get(label, -1) for label in frame["label"]], np.int64)
        self._make_sampler = sampler
        self._sampler: Sampler | None = None
        self._rows: dict[str, np.ndarray] = {}

    def prepare(self, progress: bool = True) -> list[Fate]:
        """Decodes all pictures once and makes the sampler over those that can be read.

        Returns:
            What became of every file, missing ones included.

        Raises:
            UserError: no training picture can be read; the commonest reason is told.
        """
        frame = self.manifest.frame
        there = frame["path"].notna().to_numpy()
        asked = {name: np.flatnonzero(there & (frame["split"] == name).to_numpy()) for name in ("train", "val", "test")}
        # training rows first: they are read in every epoch, the others a few times
        readable = self.tiles.decode_all(np.concatenate(list(asked.values())), self.workers, progress)
        self._rows = {name: rows[np.isin(rows, readable)] for name, rows in asked.items()}
        fates = [*self.manifest.fates, *self.tiles.fates()]
        if not len(self._rows["train"]):
            reasons = Counter(fate.reason for fate in fates if fate.status != "ok")
            common = reasons.most_common(1)[0][0] if reasons else "no row has the split 'train'"
            raise UserError(f"no training picture can be read: {common}", str(self.manifest.path))
        self._sampler = self._make_sampler(self.relations.group[self._rows["train"]])
        return fates

    @property
    def sampler(self) -> Sampler:
        """Of the training rows."""
        if self._sampler is None:
            raise RuntimeError("call prepare() before the data are used")
        return self._sampler

    def rows(self, split: str) -> np.ndarray:
        """Manifest rows of a split whose picture can be read, [n] int64, in file order."""
        if self._sampler is None:
            raise RuntimeError("call prepare() before the data are used")
        return self._rows[split]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the ids that train, in order: a run resumes exactly only over the same ones."""
        ids = self.manifest.frame["id"].iloc[self.rows("train")]
        return hashlib.sha256("\n".join(ids).encode()).hexdigest()

    def train_batches(self, start_step: int, stop_step: int, rank: int = 0, size: int = 1) -> Batches:
        """Batches of one rank for a range of optimiser steps; any cut into ranges gives the same batches."""
        dataset = PairDataset(
            self.tiles,
            self.rows("train"),
            self.sampler,
            self.captions,
            self.relations,
            self.tokenize,
            self.manifest.frame["id"].tolist(),
            self.labels if self.classes else None,
            self.augment,
            self.seed,
            rank,
            size,
        )
        return Batches(dataset, start_step, stop_step, self.workers)

    def eval_images(self, split: str, batch_size: int = 64) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Pictures of a split in file order, not augmented: manifest rows [b] and uint8 [b, 3, s, s].

        A picture that has become unreadable since :meth:`prepare` is left out, rows and all, and counted.
        """
        parts = list(chunks(self.rows(split), batch_size))
        for rows, images in _load(_Pictures(self.tiles, parts), range(len(parts)), self.workers):
            if len(rows):
                yield rows, images


@dataclass(frozen=True)
class _Pictures(Dataset[tuple[np.ndarray, torch.Tensor]]):
    """Item i: the pictures of a list of rows that can still be read."""

    tiles: TileSource
    parts: list[np.ndarray]

    def __getitem__(self, index: int) -> tuple[np.ndarray, torch.Tensor]:
        kept, images = [], []
        for row in self.parts[index]:
            try:
                images.append(self.tiles.get(int(row)))
                kept.append(int(row))
            except (UserError, OSError):
                self.tiles.late[row] += 1
        size = self.tiles.geometry.size_px
        stacked = np.stack(images) if images else np.empty((0, 3, size, size), np.uint8)
        return np.array(kept, np.int64), torch.from_numpy(stacked)


def _load(dataset: Dataset[Any], order: range, workers: int) -> Iterator[Any]:
    """Items in the given order, each made whole by one worker."""
    loader = iter(
        DataLoader(
            dataset,
            batch_size=None,
            sampler=order,
            num_workers=workers,
            collate_fn=_same,
            worker_init_fn=ignore_signals,
            prefetch_factor=2 if workers else None,
        )
    )
    try:
        yield from loader
    finally:
        # an error that is kept somewhere keeps the loader too; at exit Python would then send its workers a SIGTERM,
        # which they leave to the main process, and wait for them for ever
        if workers:
            loader._shutdown_workers()  # type: ignore[attr-defined]


def ignore_signals(_worker: int) -> None:
    """Workers leave signals to the main process: an inherited handler would write a checkpoint from inside a worker."""
    for name in ("SIGUSR1", "SIGUSR2", "SIGTERM"):
        if hasattr(signal, name):  # not on every system
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _same(item: Any) -> Any:
    return item
