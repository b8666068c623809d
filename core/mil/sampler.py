"""Which bags are in the batch of a step, which rank computes which of them, and what is computed at once.

Three decisions, each a pure function: the *global* batch by (seed, step), whatever the number of ranks
(:class:`TokenBudgetSampler`); its split over ranks by the number of tiles (:func:`balanced`); and the groups that a
rank takes one after the other through forward and backward (:func:`token_groups`). No bag is ever cut or subsampled.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from core.data.samplers import Sampler, philox
from core.types import UserError


class TokenBudgetSampler(Sampler):
    """Batches of equally many bags, none with more tiles (tokens) than a budget; an epoch takes every bag once.

    In each epoch the bags, sorted by length, are cut into strata of as many as the epoch has steps, and every batch
    takes one bag of each stratum. So all batches hold the same number of bags (but for one) and nearly the same number
    of tiles. Filling random bags up to a budget instead would weigh a bag by the size of its companions: a mean over
    few large bags here, over many small ones there.

    The number of bags is the largest up to ``bags_per_batch`` whose largest possible batch is within ``tokens``. A bag
    that is longer than that all by itself makes the budget its length: batches then hold a single bag where need be.

    Args:
        lengths: [n] tiles of each bag, at least 1.
        bags_per_batch: at most so many bags in the global batch.
        tokens: at most so many tiles in the global batch.
        seed: of the order.

    Raises:
        UserError: there is no bag, or a bound is below 1.
    """

    def __init__(self, lengths: np.ndarray, bags_per_batch: int, tokens: int, seed: int) -> None:
        if bags_per_batch < 1 or tokens < 1:
            raise UserError(
                f"the sampler takes {bags_per_batch} bags with {tokens} tiles; expected at least 1 of each",
                todo="set sampler.bags_per_batch and sampler.tokens",
            )
        if not len(lengths):
            raise UserError("there are no training bags")
        self.lengths, self.seed = np.asarray(lengths, np.int64), seed
        self.steps_per_epoch = _steps(self.lengths, bags_per_batch, tokens)
        self._epoch, self._places = -1, np.empty(0, np.int64)  # the last epoch, kept because steps come in order

    @property
    def bags_per_batch(self) -> int:
        """Bags of the fullest batches of an epoch; the others have one less."""
        return -(-len(self.lengths) // self.steps_per_epoch)

    @property
    def most_tokens(self) -> int:
        """Tiles of the largest batch that can come."""
        return _largest_batch(self.lengths, self.steps_per_epoch)

    def batch(self, step: int) -> np.ndarray:
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._places = epoch, self._draw(epoch)
        return np.flatnonzero(self._places == place)

    def _draw(self, epoch: int) -> np.ndarray:
        """The step of the epoch that each bag belongs to, [n]."""
        random, steps = philox(self.seed, 6, epoch), self.steps_per_epoch
        # longest first; bags of equal length change places, so that strata do not repeat the order of the file
        order = np.lexsort((random.random(len(self.lengths)), -self.lengths))
        strata = -(-len(order) // steps)
        # the last stratum may have fewer bags than there are steps
        slots = np.concatenate([random.permutation(steps) for _ in range(strata)])[: len(order)]
        places = np.empty(len(order), np.int64)
        places[order] = slots
        return places


def _largest_batch(lengths: np.ndarray, steps: int) -> int:
    """The longest bag of every stratum together."""
    return int(np.sort(lengths)[::-1][::steps].sum())


def _steps(lengths: np.ndarray, bags: int, tokens: int) -> int:
    """Fewest steps an epoch that keep every batch within both bounds; more steps never make its batches larger."""
    budget = max(tokens, int(lengths.max()))
    low, high = -(-len(lengths) // bags), len(lengths)
    while low < high:
        middle = (low + high) // 2
        if _largest_batch(lengths, middle) <= budget:
            high = middle
        else:
            low = middle + 1
    return low


def balanced(lengths: np.ndarray, ranks: int) -> list[np.ndarray]:
    """Splits a batch over ranks so that all have nearly the same number of tiles.

    Longest bag first, each to the rank with the fewest tiles so far (Graham 1969: at most 4/3 of the best possible).
    Ranks may hold different numbers of bags; the global batch in the order of ranks is the parts one after the other.

    Args:
        lengths: [B] tiles of the bags of a batch.
        ranks: W.

    Returns:
        W arrays of positions in the batch, int64, each with at least one, longest first.

    Raises:
        UserError: there are fewer bags than ranks.
    """
    if len(lengths) < ranks:
        raise UserError(
            f"a batch of {len(lengths)} bags cannot be split over {ranks} ranks",
            todo="set larger sampler.bags_per_batch and sampler.tokens, or train on fewer devices",
        )
    parts: list[list[int]] = [[] for _ in range(ranks)]
    heap = [(0, 0, rank) for rank in range(ranks)]  # tiles, bags, rank: an empty rank comes before any other
    for position in np.argsort(-np.asarray(lengths, np.int64), kind="stable"):
        tiles, bags, rank = heapq.heappop(heap)
        parts[rank].append(int(position))
        heapq.heappush(heap, (tiles + int(lengths[position]), bags + 1, rank))
    return [np.array(part, np.int64) for part in parts]


def token_groups(lengths: Sequence[int], tokens: int) -> list[tuple[int, int]]:
    """Cuts bags, in their order, into groups ``first:last`` of at most ``tokens`` tiles; a longer bag stands alone."""
    groups, first, held = [], 0, 0
    for index, length in enumerate(lengths):
        if index > first and held + length > tokens:
            groups.append((first, index))
            first, held = index, 0
        held += length
    return [*groups, (first, len(lengths))]
