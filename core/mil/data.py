"""Bags of a manifest: which slides make a bag, what can be read, and batches over any range of steps.

The same face as :class:`core.data.module.PairsDataModule`, for features instead of pictures.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from core.data.columns import SPLITS
from core.data.manifest import Manifest
from core.data.samplers import Sampler, philox
from core.mil.bags import Bag, PackedBags
from core.mil.cohort import (
    Kind,
    joined,
    kind_of,
    odd_ones,
    one_a_bag,
    read_ahead,
    refuse_divided,
    rows_by_name,
    unlabelled,
)
from core.mil.sampler import balanced, token_groups
from core.mil.texts import BagTexts
from core.types import Fate, Targets, UserError

Read = Callable[[str], Bag]
"""``read(id)`` gives the features of a slide, or raises a UserError or OSError.

It is called by several threads, and pickled where ranks are spawned.
"""


@dataclass(frozen=True)
class BagBatch:
    """The share of one rank (or a part of it); what a :class:`core.mil.tasks.task.BagTask` takes."""

    step: int
    bags: PackedBags
    labels: Mapping[str, Tensor]  # by column, each [b]
    ids: tuple[str, ...]  # [b], as in ``bags``
    tokens: Tensor | None = None  # [c, L] int64 captions, for tasks that pair bags with texts
    owner: Tensor | None = None  # [c] int64, ascending: the bag of a caption
    targets: Targets | None = None  # of the whole global batch
    context: Tensor | None = None  # [b, L] int64: a text that is read together with each bag

    @property
    def images(self) -> Tensor:
        """What a :class:`core.training.step.Step` asks for the device of the batch."""
        return self.bags.features

    def to(self, device: Any) -> BagBatch:
        """The same batch on ``device`` (Lightning calls this)."""
        return replace(
            self,
            bags=self.bags.to(device),
            labels={name: values.to(device) for name, values in self.labels.items()},
            tokens=None if self.tokens is None else self.tokens.to(device),
            owner=None if self.owner is None else self.owner.to(device),
            targets=None if self.targets is None else self.targets.to(device),
            context=None if self.context is None else self.context.to(device),
        )

    def part(self, first: int, last: int) -> BagBatch:
        """Bags ``first`` to ``last - 1`` with their captions: views, but for the captions."""
        tokens, owner = self.tokens, self.owner
        if tokens is not None and owner is not None:
            mine = (owner >= first) & (owner < last)
            tokens, owner = tokens[mine], owner[mine] - first
        return replace(
            self,
            bags=self.bags.part(first, last),
            labels={name: values[first:last] for name, values in self.labels.items()},
            ids=self.ids[first:last],
            tokens=tokens,
            owner=owner,
            context=None if self.context is None else self.context[first:last],
        )

    def micro(self, size: int) -> list[BagBatch]:
        """Cuts the batch into parts of at most ``size`` bags."""
        return [self.part(first, min(first + size, len(self.ids))) for first in range(0, len(self.ids), size)]

    def groups(self, tokens: int) -> list[BagBatch]:
        """Cuts the batch into parts of at most so many tiles; a longer bag is a part of its own."""
        return [self.part(*ends) for ends in token_groups(self.bags.offsets.diff().tolist(), tokens)]


class BagDataModule:
    """Joins manifest, features, labels and sampler. Call :meth:`prepare` once before anything else.

    Args:
        manifest: one row a slide, with splits.
        read: gives the features of a slide by its id in the manifest.
        sampler: makes the sampler from the lengths of the training bags, [n] int64.
        labels: by column, one value a manifest row (:func:`core.mil.labels.bag_labels`).
        bag_of: what makes one bag: all slides of a ``group`` (patient), in file order, or each row (``id``).
        workers: threads that read ahead, each a batch (batches are too large to travel between processes); 0: none.
            The batches do not depend on it.
        cache_gib: bound of the features that are kept in memory, as stored; those of training first.

    Raises:
        UserError: a group is in two splits, or slides of one bag have different labels.
    """

    def __init__(
        self,
        manifest: Manifest,
        read: Read,
        sampler: Callable[[np.ndarray], Sampler],
        *,
        labels: Mapping[str, np.ndarray],
        bag_of: Literal["group", "id"] = "group",
        workers: int = 0,
        cache_gib: float = 1.0,
    ) -> None:
        frame = manifest.frame
        self.manifest, self.workers, self.cache_gib = manifest, workers, cache_gib
        self.texts: BagTexts | None = None  # whoever builds a task of texts sets it: they come in the task's tokens
        self._read, self._make_sampler = read, sampler
        self._sampler: Sampler | None = None
        self._kind: Kind | None = None  # of every bag that can be used; once prepared
        self.tile_size: float | None = None  # usual side of a training tile, in the unit of the bags; once prepared
        self._slides: list[str] = frame["id"].astype(str).tolist()
        self._groups: list[str] = frame["group"].astype(str).tolist()
        self._split: list[str | None] = frame["split"].tolist()
        refuse_divided(self._groups, self._split)
        self._rows_of = rows_by_name(self._groups if bag_of == "group" else self._slides)
        self._all_labels = {column: one_a_bag(column, values, self._rows_of) for column, values in labels.items()}
        self._members: dict[str, list[int]] = {}  # rows of each bag, without slides that are of no use
        self._parts: dict[str, _Split] = {}
        self._tiles = np.zeros(len(frame), np.int64)  # of each row
        self._cache: dict[int, Bag] = {}

    def prepare(self, progress: bool = True) -> list[Fate]:
        """Reads the features of every slide once, and makes the sampler over the bags that can be used.

        Left out and named are slides that cannot be read or whose features are of another kind (width, encoder, unit)
        or scale than most of the training slides', and all slides of a bag of unknown label. A bag is what remains of
        it.

        Returns:
            What became of every slide of a split.

        Raises:
            UserError: no training bag is left; the commonest reason is told.
        """
        used = [row for split in SPLITS for row, own in enumerate(self._split) if own == split]
        reasons: dict[int, str] = {}
        kinds: dict[int, Kind] = {}
        sizes: dict[int, float] = {}
        room = int(self.cache_gib * 2**30)
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        reading = zip(used, read_ahead(self._try, used, threads), strict=True)
        for row, found in track(reading, "reading features", len(used), disable=not progress, transient=True):
            if isinstance(found, str):
                reasons[row] = found
                continue
            self._tiles[row], kinds[row], sizes[row] = len(found), kind_of(found), found.tile_size
            if found.features.nbytes <= room:
                self._cache[row] = found
                room -= found.features.nbytes
        odd, self.tile_size = odd_ones(kinds, sizes, {row for row in kinds if self._split[row] == "train"})
        reasons |= odd
        names = list(self._rows_of)
        for bag, reason in unlabelled(self._all_labels, len(names)).items():
            for row in self._rows_of[names[bag]]:
                reasons.setdefault(row, reason)
        self._cache = {row: bag for row, bag in self._cache.items() if row not in reasons}
        kept = {name: [row for row in rows if row not in reasons] for name, rows in self._rows_of.items()}
        self._members = {name: rows for name, rows in kept.items() if rows and self._split[rows[0]] is not None}
        self._parts = {split: self._part(split) for split in SPLITS}
        if not self._parts["train"].ids:
            common = Counter(reasons[row] for row in used if row in reasons).most_common(1)
            reason = common[0][0] if common else "no row has the split 'train'"
            raise UserError(f"no training bag can be used: {reason}", str(self.manifest.path))
        self._kind = kinds[self._members[self._parts["train"].ids[0]][0]]  # of all that are left
        self._sampler = self._make_sampler(self._parts["train"].lengths)
        return [self._fate(row, reasons.get(row)) for row in used]

    @property
    def sampler(self) -> Sampler:
        """Of the training bags."""
        if self._sampler is None:
            raise RuntimeError("call prepare() before the data are used")
        return self._sampler

    @property
    def fingerprint(self) -> str:
        """SHA-256 over kind and scale of the features, and the training bags in order: slides, tiles and labels.

        What stands before the colon says what is hashed: another word is another definition, not other data.
        """
        lines = [f"{self._kind}\t{self.tile_size}"]
        lines += [f"{name}\t{self.slides(name)}" for name in self.ids("train")]
        lines += [f"{name}\t{values.tolist()}" for name, values in sorted(self.labels("train").items())]
        return f"bags-2:{hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"

    def ids(self, split: str) -> tuple[str, ...]:
        """Bags of a split that can be used, in the order of their first row; all below are in this order."""
        return self._of(split).ids

    def rows(self, split: str) -> np.ndarray:
        """Manifest row of the first slide of each bag, [n] int64."""
        return self._of(split).rows

    def units(self, split: str) -> tuple[str, ...]:
        """The independent unit (patient) of each bag: its group in the manifest."""
        return tuple(self._groups[row] for row in self.rows(split))

    def lengths(self, split: str) -> np.ndarray:
        """Tiles of each bag, [n] int64."""
        return self._of(split).lengths

    def labels(self, split: str) -> Mapping[str, np.ndarray]:
        """Labels of each bag by column, [n]."""
        return self._of(split).labels

    def numbers(self, split: str) -> np.ndarray:
        """Number of each bag among all bags of the manifest, in the order of their first row, [n] int64."""
        return self._of(split).numbers

    def slides(self, bag: str) -> tuple[tuple[str, int], ...]:
        """Slides of a bag, in the order of its tiles: (id, number of tiles)."""
        return tuple((self._slides[row], int(self._tiles[row])) for row in self._members[bag])

    def bag(self, name: str) -> Bag:
        """One bag: the tiles of its slides one slide after the other, each slide in its own frame.

        Raises:
            UserError: a slide that was sound can no longer be read, or has another number of tiles.
        """
        return joined(name, [self._slide(row) for row in self._members[name]])

    def tiles(self, count: int, seed: int) -> Tensor:
        """About ``count`` features of training tiles, as many of each bag where it has them, [n, D] float32."""
        names, random = self.ids("train"), philox(seed, 7)
        each = -(-count // len(names))
        parts = []
        for name in names:
            features = self.bag(name).features
            chosen = np.sort(random.permutation(len(features))[:each])
            parts.append(features[chosen].astype(np.float32))
        return torch.from_numpy(np.concatenate(parts))

    def batch(self, step: int, rank: int = 0, size: int = 1) -> BagBatch:
        """One rank's share of the batch of a step."""
        chosen, train = self.sampler.batch(step), self._of("train")
        shares = [chosen[part] for part in balanced(train.lengths[chosen], size)]
        mine = shares[rank]
        names = tuple(train.ids[bag] for bag in mine)
        labels = {column: torch.from_numpy(values[mine]) for column, values in train.labels.items()}
        batch = BagBatch(step, PackedBags.pack([self.bag(name) for name in names]), labels, names)
        if self.texts is None:
            return batch
        return self.texts.spoken(batch, [train.numbers[share] for share in shares], rank)

    def train_batches(self, start_step: int, stop_step: int, rank: int = 0, size: int = 1) -> BagBatches:
        """Batches of one rank for a range of optimiser steps; any cut into ranges gives the same batches."""
        return BagBatches(self, start_step, stop_step, rank, size)

    def eval_bags(self, split: str, tokens: int = 65_536) -> Iterator[PackedBags]:
        """Bags of a split in the order of :meth:`ids`, in packs of at most so many tiles; a longer bag is alone."""
        names = self.ids(split)
        parts = [names[first:last] for first, last in token_groups(self.lengths(split).tolist(), tokens)]
        return read_ahead(lambda part: PackedBags.pack([self.bag(name) for name in part]), parts, self.workers)

    def _of(self, split: str) -> _Split:
        if not self._parts:
            raise RuntimeError("call prepare() before the data are used")
        return self._parts[split]

    def _part(self, split: str) -> _Split:
        names = list(self._rows_of)
        inside = {name for name, rows in self._members.items() if self._split[rows[0]] == split}
        bags = [bag for bag, name in enumerate(names) if name in inside]
        ids = tuple(names[bag] for bag in bags)
        return _Split(
            ids,
            np.array([self._members[name][0] for name in ids], np.int64),
            np.array([self._tiles[self._members[name]].sum() for name in ids], np.int64),
            {column: values[bags] for column, values in self._all_labels.items()},
            np.array(bags, np.int64),
        )

    def _slide(self, row: int) -> Bag:
        found = self._cache.get(row)
        if found is None:
            try:
                found = self._read(self._slides[row])
            except OSError as error:
                raise UserError(f"slide '{self._slides[row]}' can no longer be read: {error}") from error
        if len(found) != self._tiles[row]:
            raise UserError(
                f"slide '{self._slides[row]}' had {self._tiles[row]} tiles when the run began and has {len(found)}",
                todo="do not write features while a run reads them; resume with the files it began with",
            )
        return found

    def _try(self, row: int) -> Bag | str:
        try:
            return self._read(self._slides[row])
        except UserError as error:
            return "; ".join(part for part in (error.what, error.where, error.todo) if part)
        except OSError as error:
            return str(error)

    def _fate(self, row: int, reason: str | None) -> Fate:
        counts = {"tiles": int(self._tiles[row])}
        return Fate(self._slides[row], "ok" if reason is None else "refused", reason or "", counts)


@dataclass(frozen=True)
class _Split:
    """The bags of one split, in the order of their first row."""

    ids: tuple[str, ...]  # [n]
    rows: np.ndarray  # [n] int64: manifest row of the first slide
    lengths: np.ndarray  # [n] int64: tiles
    labels: Mapping[str, np.ndarray]  # by column, each [n]
    numbers: np.ndarray  # [n] int64: among all bags of the manifest


@dataclass(frozen=True)
class BagBatches:
    """Batches of one rank of the steps ``start`` to ``stop`` (exclusive); iterating again starts again."""

    data: BagDataModule
    start: int
    stop: int
    rank: int
    size: int

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[BagBatch]:
        steps = range(self.start, self.stop)
        return read_ahead(lambda step: self.data.batch(step, self.rank, self.size), steps, self.data.workers)
