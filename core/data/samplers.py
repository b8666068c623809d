"""Which samples are in the batch of a step: a pure function of (seed, step), the same on every rank.

The *global* batch is drawn first and split over ranks afterwards (:func:`shard`), so neither the number of ranks nor a
restart changes the order of the data. Generators are counter-based (Philox) and keyed by (seed, what is drawn, epoch).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from core.types import UserError


class Sampler(ABC):
    """An infinite sequence of global batches."""

    steps_per_epoch: int

    @abstractmethod
    def batch(self, step: int) -> np.ndarray:
        """Samples of a step, [B] int64 in [0, n), none twice."""


class UniformSampler(Sampler):
    """Every sample with equal weight, every batch of equal size.

    An epoch is a permutation cut into batches; its remainder, smaller than a batch, is left out of that epoch.

    Args:
        groups: [n] of any values; only its length counts (the composition root gives every sampler the same argument).
        batch_size: samples in the global batch.
        seed: of the order.

    Raises:
        UserError: there are fewer samples than one batch needs.
    """

    def __init__(self, groups: np.ndarray, batch_size: int, seed: int) -> None:
        self.n, self.batch_size, self.seed = len(groups), batch_size, seed
        if batch_size < 1 or batch_size > self.n:
            raise UserError(
                f"the batch size is {batch_size}; expected 1 to {self.n}, the number of training samples",
                todo="set data.batch_size",
            )
        self.steps_per_epoch = self.n // batch_size
        self._epoch, self._order = -1, np.empty(0, np.int64)  # the last permutation, kept because steps come in order

    def batch(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, philox(self.seed, 0, epoch).permutation(self.n)
        return self._order[position * self.batch_size : (position + 1) * self.batch_size].astype(np.int64)


class GroupSampler(Sampler):
    """At most P groups of at most K samples each: what a group-wise objective needs to see positives.

    An epoch is one pass over the groups in new order, in batches whose numbers of groups differ by at most one. A group
    with fewer than K samples gives all it has (ragged); a larger one gives K others in each epoch until all had a turn.
    As every group comes once an epoch, rare groups are seen more often than in uniform sampling.

    Args:
        groups: [n] group of each sample, any values.
        groups_per_batch: P.
        per_group: K.
        seed: of the order.

    Raises:
        UserError: there are no samples, or P or K is below 1.
    """

    def __init__(self, groups: np.ndarray, groups_per_batch: int, per_group: int, seed: int) -> None:
        if groups_per_batch < 1 or per_group < 1:
            raise UserError(
                f"the sampler takes {groups_per_batch} groups of {per_group}; expected at least 1 of each",
                todo="set sampler.groups_per_batch and sampler.per_group",
            )
        if not len(groups):
            raise UserError("there are no training samples to draw groups from")
        _, inverse, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
        # positions sorted by group, as CSR: members of group g are order[starts[g]:starts[g] + counts[g]]
        self._order = np.argsort(inverse, kind="stable").astype(np.int64)
        self._starts, self._counts = np.cumsum(counts) - counts, counts
        self.per_group, self.seed = per_group, seed
        self.steps_per_epoch = -(-len(counts) // groups_per_batch)

    def batch(self, step: int) -> np.ndarray:
        epoch, position = divmod(step, self.steps_per_epoch)
        order = philox(self.seed, 1, epoch).permutation(len(self._counts))
        chosen = np.array_split(order, self.steps_per_epoch)[position]
        return np.concatenate([self._members(int(group), epoch) for group in chosen])

    def _members(self, group: int, epoch: int) -> np.ndarray:
        start, count = int(self._starts[group]), int(self._counts[group])
        members = self._order[start : start + count]
        turns = max(1, count // self.per_group)  # epochs one permutation of the group lasts
        shuffled = philox(self.seed, 2, epoch // turns, group).permutation(members)
        first = (epoch % turns) * self.per_group
        return shuffled[first : first + self.per_group]


def philox(*key: int) -> np.random.Generator:
    """A generator that depends on the key alone: (seed, stream, counters...), non-negative integers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def shard(indices: np.ndarray, rank: int, size: int) -> tuple[tuple[int, ...], np.ndarray]:
    """The part of one rank: contiguous, sizes differing by at most one, parts in rank order are the global batch.

    Returns:
        ``size + 1`` offsets of all ranks, and the part of this one.

    Raises:
        UserError: a batch has fewer samples than there are ranks.
    """
    if len(indices) < size:
        raise UserError(
            f"a batch of {len(indices)} samples cannot be split over {size} ranks", todo="set a larger batch"
        )
    small, more = divmod(len(indices), size)
    offsets = np.concatenate([[0], np.cumsum([small + (r < more) for r in range(size)])])
    return tuple(int(o) for o in offsets), indices[offsets[rank] : offsets[rank + 1]]
