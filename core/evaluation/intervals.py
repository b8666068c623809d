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
class Draws:
    """One statistic of S replicates (seeds) on the same R draws of the units; differences of these are paired."""

    points: FloatArray  # [S] on all items
    values: FloatArray  # [R, S] on each draw
    units: int  # independent units drawn

    def __sub__(self, other: Draws) -> Draws:
        return Draws(self.points - other.points, self.values - other.values, min(self.units, other.units))


@dataclass(frozen=True)
class Summary:
    """A mean over replicates, or a paired difference of two such means, with its interval over seeds and units."""

    value: float
    low: float
    high: float
    detectable: float  # smallest true difference that would be found in 80 % of repetitions (two-sided 5 %)
    replicates: int  # seeds
    units: int
    spread: tuple[float, float]  # smallest and largest value of a replicate
    standard_error: float  # of the mean over replicates alone; NaN for one

    def verdict(self, better: str) -> str:
        """``better`` or ``worse`` when the interval excludes zero, otherwise ``undecided``."""
        if not (self.low > 0 or self.high < 0):  # NaN bounds decide nothing
            return "undecided"
        return "better" if (self.value > 0) == (better == "higher") else "worse"


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


def draw(
    statistics: Sequence[Statistic],
    units: Sequence[npt.ArrayLike],
    every: npt.ArrayLike | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Draws:
    """The statistic of each replicate on common draws of the units.

    A unit that occurs in several replicates is drawn once for all of them (crossed); units that occur in one alone are
    in effect drawn for it (nested).

    Args:
        statistics: one a replicate.
        units: for each replicate the unit of each of its items.
        every: all units of a comparison, so that its two sides see the same draws; by default those of ``units``.
    """
    names = np.unique(np.concatenate([np.asarray(unit).astype(str) for unit in units]) if every is None else every)
    codes = [np.searchsorted(names, np.asarray(unit).astype(str)) for unit in units]
    counts = _counts(np.random.default_rng(seed), len(names), draws)
    pairs = list(zip(statistics, codes, strict=True))
    points = np.array([point(of, len(code)) for of, code in pairs])
    return Draws(points, np.stack([_apply(of, counts, code) for of, code in pairs], axis=1), len(names))


def summarise(drawn: Draws, seed: int = 0) -> Summary:
    """Mean over replicates with an interval that resamples replicates *and* units.

    The degrees of freedom of the two sources of variance are joined by Satterthwaite's formula, so that five seeds
    count as five and a thousand patients as a thousand. Resampling both levels of a crossed design errs on the wide
    side where noise of single items dominates (Owen 2007, "The pigeonhole bootstrap"). With one replicate the interval
    is over units alone, and with one unit there is none (NaN).
    """
    points, values = drawn.points, drawn.values
    replicates, value = len(points), float(points.mean())
    spread = (float(points.min()), float(points.max()))
    error = float(points.std(ddof=1)) / replicates**0.5 if replicates > 1 else np.nan
    if drawn.units < 2 or np.isnan(values).all():
        return Summary(value, np.nan, np.nan, np.nan, replicates, drawn.units, spread, error)
    there = ~np.isnan(values)
    over_units = _mean(values, there.astype(np.float64))
    chosen = _counts(np.random.default_rng([seed, 1]), replicates, len(values)) * there
    means = _mean(values, chosen)
    of_units = float(np.nanvar(over_units, ddof=1))
    of_seeds = 0.0 if np.isnan(error) else error**2
    low, high = _bounds(means, _satterthwaite(of_units, drawn.units - 1, of_seeds, replicates - 1))
    detectable = _POWER * float(np.nanstd(means, ddof=1))
    return Summary(value, low, high, detectable, replicates, drawn.units, spread, error)


def average(several: Sequence[Draws]) -> Draws:
    """Mean of several statistics on the same draws: other factors averaged out."""
    points = np.mean([drawn.points for drawn in several], axis=0)
    return Draws(points, np.mean([drawn.values for drawn in several], axis=0), several[0].units)


def _mean(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted mean over replicates of each draw, [R]; NaN where no replicate has weight."""
    total = weights.sum(axis=1)
    out: FloatArray = np.full(len(values), np.nan)
    np.divide((weights * np.nan_to_num(values)).sum(axis=1), total, out=out, where=total > 0)
    return out


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
