"""Survival: concordance of a risk with continuous times, Kaplan-Meier curves, and the log-rank test.

Times are follow-up in any one unit; ``event`` is true where the event happened then, false where the patient was
censored. One who is censored at the time of another's event is taken to have outlived it, here as in the risk sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from core.evaluation.metrics import FloatArray, Statistic
from core.types import UserError

_ROWS = 1024  # rows of the table of pairs held at a time: 80 MB for ten thousand patients


def concordance(time: npt.ArrayLike, event: npt.ArrayLike, risk: npt.ArrayLike) -> Statistic:
    """Harrell's C-index (1982): of the pairs whose order is known, the share in which the higher risk came first.

    A pair is known when one had the event and the other was followed for longer, or as long without an event. Two
    events at the same time say nothing. Equal risks count half. 0.5 is chance, and NaN means that no pair is known.

    Args:
        time: [N], never binned: binned times would tie what was told apart.
        event: [N] bool.
        risk: [N], any monotone score, higher for the earlier event.
    """
    times, happened = np.asarray(time, dtype=np.float64), np.asarray(event, dtype=bool)
    scores = np.asarray(risk, dtype=np.float64)

    def of(weights: FloatArray) -> FloatArray:
        won, known = np.zeros(len(weights)), np.zeros(len(weights))
        # w' M w, so that a draw is a matrix product; strips of M, because M of all patients may not fit
        for start in range(0, len(times), _ROWS):
            rows = slice(start, start + _ROWS)
            mine, first = times[rows, None], happened[rows, None]
            pair = first & ((mine < times) | ((mine == times) & ~happened))
            half = (scores[rows, None] > scores) * 1.0 + (scores[rows, None] == scores) * 0.5
            known += ((weights @ pair.T) * weights[:, rows]).sum(axis=1)
            won += ((weights @ (pair * half).T) * weights[:, rows]).sum(axis=1)
        out: FloatArray = np.full(len(weights), np.nan)
        return np.divide(won, known, out=out, where=known > 0)

    return of


def kaplan_meier(time: npt.ArrayLike, event: npt.ArrayLike, level: float = 0.95) -> pd.DataFrame:
    """The product-limit estimate (Kaplan and Meier 1958) with its pointwise interval.

    The variance is Greenwood's (1926), on the scale of ``log(-log S)``, where the bounds stay between 0 and 1
    (Kalbfleisch and Prentice 1980, 1.3). There is no interval (NaN) where the curve is at 0, and none of any width
    before the first event.

    Returns:
        One row at time 0 and at every distinct time, with the columns time, at_risk (just before), events, censored,
        survival (just after), low, high.
    """
    times, happened = _checked(time, event)
    distinct, place = np.unique(times, return_inverse=True)
    events = np.bincount(place, weights=happened).astype(np.int64)
    leaving = np.bincount(place)
    at_risk = len(times) - np.concatenate([[0], leaving.cumsum()[:-1]])
    survival = np.cumprod(1 - events / at_risk)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
        spread = stats.norm.ppf(0.5 + level / 2) * np.sqrt(greenwood) / np.abs(np.log(survival))
        low, high = survival ** np.exp(spread), survival ** np.exp(-spread)
    before, over = survival == 1, survival == 0
    low, high = np.where(before, 1.0, low), np.where(before, 1.0, high)
    low, high = np.where(over, np.nan, low), np.where(over, np.nan, high)
    curve = pd.DataFrame(
        {
            "time": distinct,
            "at_risk": at_risk,
            "events": events,
            "censored": leaving - events,
            "survival": survival,
            "low": low,
            "high": high,
        }
    )
    if distinct[0] > 0:
        start = {"time": 0.0, "at_risk": len(times), "events": 0, "censored": 0}
        curve = pd.concat([pd.DataFrame([{**start, "survival": 1.0, "low": 1.0, "high": 1.0}]), curve])
    return curve.reset_index(drop=True)


@dataclass(frozen=True)
class LogRank:
    """Whether groups have the same survival."""

    statistic: float  # chi-squared; 0 where nothing can be told
    freedom: int
    p: float
    groups: tuple[str, ...]
    observed: tuple[int, ...]  # events of each group
    expected: tuple[float, ...]  # had all groups one survival


def log_rank(time: npt.ArrayLike, event: npt.ArrayLike, group: npt.ArrayLike) -> LogRank:
    """The log-rank test of G groups (Mantel 1966; Peto and Peto 1972), with the hypergeometric variance of ties.

    Args:
        time: [N]. event: [N] bool. group: [N] names.

    Raises:
        UserError: fewer than two groups.
    """
    times, happened = _checked(time, event)
    names, codes = np.unique(np.asarray(group).astype(str), return_inverse=True)
    if len(names) < 2:
        raise UserError(f"a log-rank test of {len(names)} group", todo="give at least two groups")
    moments = np.unique(times[happened])  # [M]
    at_risk, died = np.zeros((2, len(moments), len(names)))
    for code in range(len(names)):
        mine = np.sort(times[codes == code])
        at_risk[:, code] = len(mine) - np.searchsorted(mine, moments, side="left")
        died[:, code] = np.bincount(np.searchsorted(moments, times[(codes == code) & happened]), minlength=len(moments))
    everyone, deaths = at_risk.sum(axis=1), died.sum(axis=1)
    share = at_risk / everyone[:, None]
    expected = (deaths[:, None] * share).sum(axis=0)
    # variance of a hypergeometric draw; one patient left at risk is drawn for certain
    scale = deaths * (everyone - deaths) / np.maximum(everyone - 1, 1)
    variance = np.diag((scale[:, None] * share).sum(axis=0)) - (scale[:, None] * share).T @ share
    observed = died.sum(axis=0)
    kept = slice(0, len(names) - 1)  # the differences sum to zero
    difference, variance = (observed - expected)[kept], variance[kept, kept]
    freedom = int(np.linalg.matrix_rank(variance))
    statistic = float(difference @ np.linalg.pinv(variance) @ difference) if freedom else 0.0
    p = float(stats.chi2.sf(statistic, freedom)) if freedom else 1.0
    return LogRank(statistic, freedom, p, tuple(map(str, names)), tuple(observed.astype(int)), tuple(expected))


def _checked(time: npt.ArrayLike, event: npt.ArrayLike) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    times, happened = np.asarray(time, dtype=np.float64), np.asarray(event, dtype=bool)
    wrong = ~(np.isfinite(times) & (times >= 0))
    if not len(times) or wrong.any():
        raise UserError(f"{int(wrong.sum())} of {len(times)} follow-up times are missing, negative or infinite",
                        todo="leave these patients out, and keep at least one")  # fmt: skip
    return times, happened
