"""Log-sum-exps over the negatives and over the positives of every row and column, by one sweep.

Positives and negatives are normalised apart, because a softmax cross-entropy then splits into terms that keep their
digits when it is almost zero. With N and Z the log-sum-exp of the negatives and positives of a row, P its targets
(summing to 1 over the positives) and s its logits,

    log(e^N + e^Z) - sum_j P_j s_j  =  gap + softplus(N - Z),      gap = Z - sum_j P_j s_j.

A single positive has a gap of exactly 0, so that a loss of 1e-12 is a softplus of about -28 and no difference of two
numbers near 100; its gradient is likewise never a probability near 1 minus 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from core.objectives.exchange import Exchange
from core.objectives.tiles import Kernel, Tile


class LogSum:
    """Running log-sum-exp of n sums, held as ``peak + log(total)``: probabilities carry no rounding of a log."""

    def __init__(self, size: int, like: Tensor) -> None:
        self.peak = like.new_full((size,), -torch.inf)
        self.total = like.new_zeros(size)

    def add_tile(self, where: slice, logits: Tensor, dim: int) -> None:
        """Adds a tile along ``dim`` to the sums ``where``; -inf adds nothing."""
        peak = torch.maximum(self.peak[where], logits.amax(dim))
        shift = _finite(peak)
        old = self.total[where] * (self.peak[where] - shift).exp()
        self.total[where] = old + (logits - shift.unsqueeze(dim)).exp_().sum(dim)
        self.peak[where] = peak

    def add_entries(self, index: Tensor, logits: Tensor) -> None:
        """Adds entry k to sum ``index[k]``."""
        peak = self.peak.scatter_reduce(0, index, logits, "amax")
        shift = _finite(peak)
        self.total = (self.total * (self.peak - shift).exp()).index_add(0, index, (logits - shift[index]).exp())
        self.peak = peak

    def value(self) -> Tensor:
        """The log-sum-exps, -inf where nothing was added."""
        return _finite(self.peak) + self.total.log()


def _finite(peak: Tensor) -> Tensor:
    """A shift for exponentials: the peak, or 0 where nothing was added yet."""
    return peak.masked_fill(peak == -torch.inf, 0.0)


@dataclass
class Side:
    """Sums of all rows, or of all columns."""

    negatives: LogSum
    positives: LogSum
    mass: Tensor  # [n] sum of the targets over the positives
    dot: Tensor  # [n] sum of target * sign * logit over the positives

    @classmethod
    def empty(cls, size: int, like: Tensor) -> Side:
        return cls(LogSum(size, like), LogSum(size, like), like.new_zeros(size), like.new_zeros(size))

    def add_positives(self, index: Tensor, target: Tensor, logits: Tensor) -> None:
        self.positives.add_entries(index, logits)
        self.mass.index_add_(0, index, target)
        self.dot.index_add_(0, index, target * logits)

    def merge(self, exchange: Exchange) -> None:
        """Over ranks that hold different rows of the same columns; two exchanges."""
        mine = torch.stack([self.negatives.peak, self.positives.peak])
        peaks = exchange.max(mine)
        totals = torch.stack([self.negatives.total, self.positives.total]) * (mine - _finite(peaks)).exp()
        sums = exchange.sum(torch.cat([totals, self.mass[None], self.dot[None]]))
        self.negatives.peak, self.positives.peak = peaks
        self.negatives.total, self.positives.total, self.mass, self.dot = sums

    def outputs(self) -> list[Tensor]:
        """N, Z and gap, [n] each; the gap is 0 where there is no positive."""
        held = self.mass > 0
        positives = self.positives.value()
        gap = torch.where(held, positives - self.dot / self.mass.where(held, 1.0), 0.0)
        return [self.negatives.value(), positives, gap]

    def saved(self) -> list[Tensor]:
        """(peak, total) of both log-sums and the mass, such that exp(s - peak) / total is 0 where nothing was added."""
        kept = []
        for sums in (self.negatives, self.positives):
            empty = sums.total == 0
            kept += [sums.peak.masked_fill(empty, torch.inf), sums.total.masked_fill(empty, 1.0)]
        return [*kept, self.mass.masked_fill(self.mass == 0, 1.0)]


class Normalisers(Kernel):
    """Six outputs: N, Z and gap of the b rows of this rank, and of all C columns of the batch (equal on every rank).

    A pair with value v is a positive for v > 0 (with target v), a negative for v = 0, a negative of weight 1 + v for
    -1 < v < 0, and left out for NaN. With ``sign`` -1 the positives enter as ``-logit``, in Z and in the gap.
    """

    def __init__(self, exchange: Exchange, sign: float = 1.0) -> None:
        self.exchange, self.sign = exchange, sign

    def reduce(self, tiles: Iterator[Tile], rows: int, columns: int, like: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        row, column = Side.empty(rows, like), Side.empty(columns, like)
        for tile in tiles:
            i, j, target, logits = self._split(tile)
            row.add_positives(i + tile.rows.start, target, logits)
            column.add_positives(j + tile.columns.start, target, logits)
            row.negatives.add_tile(tile.rows, tile.logits, 1)
            column.negatives.add_tile(tile.columns, tile.logits, 0)
        column.merge(self.exchange)
        return row.outputs() + column.outputs(), row.saved() + column.saved()

    def _split(self, tile: Tile) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Takes the positives out of a tile: (i, j, target, sign * logit); what stays are logits of negatives."""
        logits = tile.logits[tile.i, tile.j]
        weight = torch.where(tile.value < 0, tile.value.log1p(), -torch.inf)  # NaN is not below 0: left out
        tile.logits[tile.i, tile.j] = logits + weight
        positive = tile.value > 0
        return tile.i[positive], tile.j[positive], tile.value[positive], self.sign * logits[positive]

    def gradient(self, saved: list[Tensor], gradients: list[Tensor]) -> Callable[[Tile], Tensor]:
        row, column = saved[:5], saved[5:]
        row_gradients = gradients[:3]
        # a column's output is the same number on every rank, and each rank's loss may use it
        column_gradients = list(self.exchange.sum(torch.stack(gradients[3:])))
        row_factor, column_factor = row_gradients[0] / row[1], column_gradients[0] / column[1]

        def of_tile(tile: Tile) -> Tensor:
            i, j, target, logits = self._split(tile)
            rows, columns = tile.rows, tile.columns
            result = (tile.logits - row[0][rows, None]).exp_().mul_(row_factor[rows, None])
            result += tile.logits.sub_(column[0][columns]).exp_().mul_(column_factor[columns])
            along_rows = _positive_gradient(i + rows.start, target, logits, row, row_gradients)
            along_columns = _positive_gradient(j + columns.start, target, logits, column, column_gradients)
            result[i, j] = self.sign * (along_rows + along_columns)
            return result

        return of_tile


def _positive_gradient(
    index: Tensor, target: Tensor, logits: Tensor, saved: list[Tensor], gradients: list[Tensor]
) -> Tensor:
    """Gradient of Z and gap by the logits of the positives, [k]: dZ q + dgap (q - P)."""
    peak, total, mass = saved[2:]
    share = (logits - peak[index]).exp() / total[index]  # softmax among the positives: exactly 1 for a single one
    return gradients[1][index] * share + gradients[2][index] * (share - target / mass[index])
