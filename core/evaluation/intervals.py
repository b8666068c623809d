"""Bootstrap intervals over independent units, for one run and for paired differences over seeds and items.

The interval is the *expanded* percentile interval (Hesterberg 2015, "What teachers should know about the bootstrap",
section 3.3): the plain percentile interval is too narrow when there are few units (with five it covers about 84 %
instead of 95 %), so the tail probability is lowered from 2.5 % to ``Phi(-sqrt(n / (n - 1)) t_{n-1})``. For many units
both are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from core.evaluation.metrics import FloatArray, Statistic, point

DRAWS = 1000
_BLOCK = 4_000_000  # weights held at a time (32 MB)
_POWER = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))  # two-sided 5 %, power 80 %: 2.80 standard errors


class Interval(NamedTuple):
    """A value and the bounds of its 95 % interval (NaN where there are fewer than two units)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A paired difference A - B with its interval over seeds and units."""

    value: float
    low: float
    high: float
    detectable: float  # smallest true difference that would be found in 80 % of repetitions (two-sided 5 %)
    replicates: int  # seeds
    units: int

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero."""
        return bool(self.low > 0 or self.high < 0)  # False for NaN bounds


def bootstrap(of: Statistic, units: npt.ArrayLike, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Interval of a statistic by resampling whole units (all items of a patient together).

    Args:
        of: statistic, weights [R, N] -> [R], see :mod:`core.evaluation.metrics`.
        units: [N] the independent unit of each item.
        draws: number of resamples.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        The value on all items and its bounds; with fewer than two units the bounds are NaN, because nothing is known
        about how another unit would have come out.
    """
    names, codes = _codes(units)
    value = point(of, len(codes))
    if len(names) < 2:
        return Interval(value, np.nan, np.nan)
    counts = _counts(np.random.default_rng(seed), len(names), draws)
    return Interval(value, *_bounds(_apply(of, counts, codes), len(names) - 1))


def replicated(
    statistics: Sequence[Statistic], units: Sequence[npt.ArrayLike], draws: int = DRAWS, seed: int = 0
) -> Difference:
    """Mean of one statistic over replicates (seeds), resampling replicates *and* units.

    For a comparison give statistics that are themselves differences (:func:`minus`). A unit that occurs in several
    replicates is drawn once for all of them (crossed), units that occur in one are drawn for it alone (nested).
    The degrees of freedom of the two sources of variance are joined by Satterthwaite's formula, so five seeds are
    treated as five and a thousand patients as a thousand.

    Args:
        statistics: one a replicate.
        units: for each replicate the unit of each of its items.
    """
    every = np.unique(np.concatenate([np.asarray(unit).astype(str) for unit in units]))
    codes = [np.searchsorted(every, np.asarray(unit).astype(str)) for unit in units]
    points = np.array([point(of, len(code)) for of, code in zip(statistics, codes, strict=True)])
    value, replicates = float(points.mean()), len(points)
    if len(every) < 2:
        return Difference(value, np.nan, np.nan, np.nan, replicates, len(every))
    generator = np.random.default_rng(seed)
    counts = _counts(generator, len(every), draws)
    drawn = np.stack([_apply(of, counts, code) for of, code in zip(statistics, codes, strict=True)], axis=1)  # [R, S]
    chosen = _counts(generator, replicates, draws) * ~np.isnan(drawn)
    total = chosen.sum(axis=1)
    means = np.divide((chosen * np.nan_to_num(drawn)).sum(axis=1), total, out=np.full(draws, np.nan), where=total > 0)
    of_items = float(np.nanvar(np.nanmean(drawn, axis=1), ddof=1)) if not np.isnan(drawn).all() else 0.0
    of_seeds = float(points.var(ddof=1)) / replicates if replicates > 1 else 0.0
    low, high = _bounds(means, _satterthwaite(of_items, len(every) - 1, of_seeds, replicates - 1))
    return Difference(value, low, high, _POWER * float(np.nanstd(means, ddof=1)), replicates, len(every))


def minus(first: Statistic, second: Statistic) -> Statistic:
    """Paired difference: both statistics see the same draw of the same items."""
    return lambda weights: first(weights) - second(weights)


def average(statistics: Sequence[Statistic]) -> Statistic:
    """Mean of several statistics on the same draw (other factors averaged out)."""
    return lambda weights: np.mean([of(weights) for of in statistics], axis=0)


def count_units(units: npt.ArrayLike) -> int:
    """Number of independent units."""
    return len(_codes(units)[0])


def _codes(units: npt.ArrayLike) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64]]:
    names, codes = np.unique(np.asarray(units).astype(str), return_inverse=True)
    return names, codes.astype(np.int64)


def _counts(generator: np.random.Generator, units: int, draws: int) -> FloatArray:
    """How often each unit occurs in each resample of the same size, [draws, units]."""
    return generator.multinomial(units, np.full(units, 1 / units), size=draws).astype(np.float64)


def _apply(of: Statistic, counts: FloatArray, codes: npt.NDArray[np.int64]) -> FloatArray:
    """The statistic of every draw, in blocks of draws that fit into memory."""
    block = max(1, _BLOCK // max(1, len(codes)))
    return np.concatenate([of(counts[start : start + block][:, codes]) for start in range(0, len(counts), block)])


def _bounds(values: FloatArray, freedom: float) -> tuple[float, float]:
    """Expanded percentile bounds for the given degrees of freedom; draws that gave no value are left out."""
    there = values[~np.isnan(values)]
    if not len(there):
        return float("nan"), float("nan")
    tail = float(stats.norm.cdf(-np.sqrt((freedom + 1) / freedom) * stats.t.ppf(0.975, freedom)))
    low, high = np.quantile(there, [tail, 1 - tail])
    return float(low), float(high)


def _satterthwaite(first: float, first_freedom: int, second: float, second_freedom: int) -> float:
    """Degrees of freedom of a sum of two variances; a source without freedom (one seed) is left out."""
    parts = [(v, f) for v, f in ((first, first_freedom), (second, second_freedom)) if f > 0]
    total = sum(v for v, _ in parts)
    if total == 0:
        return float(first_freedom)
    return total**2 / sum(v**2 / f for v, f in parts)
