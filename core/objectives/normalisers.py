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

    def add(self, where: slice, peak: Tensor, total: Tensor) -> None:
        """Adds ``peak + log(total)`` to the sums ``where``; a total of 0 adds nothing."""
        old = self.peak[where]
        new = torch.maximum(old, peak)
        shift = _finite(new)
        self.total[where] = self.total[where] * (old - shift).exp() + total * (peak - shift).exp()
        self.peak[where] = new

    def add_entries(self, index: Tensor, logits: Tensor) -> None:
        """Adds entry k to sum ``index[k]``."""
        peak = self.peak.scatter_reduce(0, index, logits, "amax")
        shift = _finite(peak)
        self.total = (self.total * (self.peak - shift).exp()).index_add(0, index, (logits - shift[index]).exp())
        self.peak = peak

    def value(self) -> Tensor:
        """The log-sum-exps, -inf where nothing was added."""
        return _finite(self.peak) + self.total.log()


def add_tile(row: LogSum, rows: slice, column: LogSum, columns: slice, logits: Tensor) -> None:
    """Adds the logits [r, c] of a tile to the sums of its rows and of its columns; -inf adds nothing.

    One exponential serves both: columns are sums of row-shifted exponentials, weighted back to the largest row. Where
    that comes near the smallest numbers (columns far below the rest of the tile), columns are shifted on their own.
    """
    peak = logits.amax(1)
    shifted = (logits - _finite(peak)[:, None]).exp_()
    row.add(rows, peak, shifted.sum(1))
    top = _finite(peak.amax())
    total = (peak - top).exp() @ shifted
    if total.amin() > _small(total):
        column.add(columns, top.expand_as(total), total)
    else:
        peak = logits.amax(0)
        column.add(columns, peak, torch.sub(logits, _finite(peak), out=shifted).exp_().sum(0))


def tile_gradient(logits: Tensor, row: tuple[Tensor, ...], column: tuple[Tensor, ...]) -> Tensor:
    """exp(S - row peak) * row factor + exp(S - column peak) * column factor, [r, c]; may write into ``logits``.

    Args:
        row, column: (peak, factor) of each row and column; a peak of +inf is a line without negatives.
    """
    (row_peak, row_factor), (column_peak, column_factor) = row, column
    top = row_peak.masked_fill(row_peak == torch.inf, -torch.inf).amax()
    lowest = torch.minimum(row_peak.amin(), column_peak.amin())
    if torch.isfinite(top) and (lowest - top).exp() > _small(logits):  # one exponential serves both
        weights = (row_factor * (top - row_peak).exp())[:, None] + column_factor * (top - column_peak).exp()
        return weights.mul_(logits.sub_(top).exp_())
    result = (logits - row_peak[:, None]).exp_().mul_(row_factor[:, None])
    return result.add_(logits.sub_(column_peak).exp_().mul_(column_factor))


def _small(like: Tensor) -> float:
    """Sums above this are exact to far more digits than their dtype has, although tiny addends were flushed to 0."""
    return float(torch.finfo(like.dtype).tiny ** 0.5)


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
            add_tile(row.negatives, tile.rows, column.negatives, tile.columns, tile.logits)
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
            of_rows, of_columns = (row[0][rows], row_factor[rows]), (column[0][columns], column_factor[columns])
            result = tile_gradient(tile.logits, of_rows, of_columns)
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
