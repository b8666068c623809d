"""Concordance, Kaplan-Meier and log-rank against loops over pairs and patients, and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from core.evaluation.intervals import bootstrap
from core.evaluation.metrics import point
from core.evaluation.survival import concordance, kaplan_meier, log_rank
from core.types import UserError

Follow = tuple[np.ndarray, np.ndarray, np.ndarray]


def cohort(seed: int, patients: int = 60, ties: bool = True) -> Follow:
    """Times, events and risks with many ties in all three, censoring at event times among them."""
    random = np.random.default_rng(seed)
    time = random.integers(1, 15, patients).astype(float) if ties else random.exponential(10, patients)
    event = random.random(patients) < 0.6
    risk = random.integers(0, 6, patients) - 0.2 * time if ties else random.normal(size=patients)
    return time, event, np.round(risk) if ties else risk


def loop_concordance(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    """Every ordered pair, by the words of the definition."""
    won = known = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            if not event[i]:
                continue
            outlived = time[j] > time[i] or (time[j] == time[i] and not event[j])
            if i != j and outlived:
                known += 1
                won += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return won / known


def loop_curve(time: np.ndarray, event: np.ndarray) -> list[tuple[float, int, int, float, float]]:
    """(time, at risk, events, survival, Greenwood's sum) at each distinct time."""
    rows, survival, greenwood = [], 1.0, 0.0
    for moment in sorted(set(time.tolist())):
        at_risk = sum(1 for t in time if t >= moment)
        deaths = sum(1 for t, e in zip(time, event, strict=True) if t == moment and e)
        survival *= 1 - deaths / at_risk
        if deaths < at_risk:
            greenwood += deaths / (at_risk * (at_risk - deaths))
        rows.append((moment, at_risk, deaths, survival, greenwood))
    return rows


def loop_log_rank(time: np.ndarray, event: np.ndarray, group: np.ndarray) -> float:
    """Chi-squared by a table of groups at every event time."""
    names = sorted(set(group.tolist()))
    difference, variance = np.zeros(len(names)), np.zeros((len(names), len(names)))
    for moment in sorted({t for t, e in zip(time.tolist(), event, strict=True) if e}):
        n = np.array([sum((time >= moment) & (group == name)) for name in names], dtype=float)
        d = np.array([sum((time == moment) & event & (group == name)) for name in names], dtype=float)
        share = n / n.sum()
        difference += d - d.sum() * share
        if n.sum() > 1:
            scale = d.sum() * (n.sum() - d.sum()) / (n.sum() - 1)
            for i in range(len(names)):
                for j in range(len(names)):
                    variance[i, j] += scale * share[i] * ((i == j) - share[j])
    kept = slice(0, len(names) - 1)
    return float(difference[kept] @ np.linalg.solve(variance[kept, kept], difference[kept]))


class TestConcordance:
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("ties", [True, False], ids=["ties", "continuous"])
    def test_equals_the_loop_over_pairs(self, seed: int, ties: bool) -> None:
        time, event, risk = cohort(seed, ties=ties)
        assert point(concordance(time, event, risk), len(time)) == pytest.approx(loop_concordance(time, event, risk))

    def test_of_weights_is_that_of_the_repeated_sample(self) -> None:
        time, event, risk = cohort(1)
        counts = np.random.default_rng(0).integers(0, 4, size=(3, len(time)))
        found = concordance(time, event, risk)(counts.astype(float))
        repeated = [loop_concordance(*(column.repeat(row) for column in (time, event, risk))) for row in counts]
        np.testing.assert_allclose(found, repeated)

    def test_strips_of_pairs_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        time, event, risk = cohort(2)
        whole = point(concordance(time, event, risk), len(time))
        monkeypatch.setattr("core.evaluation.survival._ROWS", 7)
        assert point(concordance(time, event, risk), len(time)) == pytest.approx(whole, rel=1e-12)

    def test_by_hand(self) -> None:
        """(1, event) comes before all three others, (2, event) before (2, censored) and (3, event): 5 pairs."""
        time, event = [1.0, 2, 2, 3], [True, True, False, True]
        # right: 1 before 2e (4 > 3), 1 before 3 (4 > 1), 2e before 3; half: none; wrong: 1 against 2c, 2e against 2c
        assert point(concordance(time, event, [4.0, 3, 5, 1]), 4) == pytest.approx(3 / 5)

    def test_two_events_at_one_time_say_nothing(self) -> None:
        assert np.isnan(point(concordance([2.0, 2], [True, True], [0.0, 1]), 2))

    def test_equal_risks_are_chance_and_a_reversed_risk_is_the_complement(self) -> None:
        time, event, risk = cohort(3)
        assert point(concordance(time, event, np.zeros(len(time))), len(time)) == 0.5
        both = [point(concordance(time, event, sign * risk), len(time)) for sign in (1, -1)]
        assert sum(both) == pytest.approx(1)

    def test_binned_times_would_give_another_value(self) -> None:
        time, event, risk = cohort(4, ties=False)
        whole = point(concordance(time, event, risk), len(time))
        assert point(concordance(np.floor(time / 8), event, risk), len(time)) != pytest.approx(whole, abs=1e-3)

    def test_interval_covers_a_planted_risk_and_excludes_chance(self) -> None:
        random = np.random.default_rng(5)
        risk = random.normal(size=150)
        time, limit = random.exponential(np.exp(-risk)), random.exponential(2, 150)
        interval = bootstrap(concordance(np.minimum(time, limit), time <= limit, risk), np.arange(150), draws=300)
        assert 0.5 < interval.low < interval.value < interval.high < 1


class TestKaplanMeier:
    @pytest.mark.parametrize("seed", range(3))
    def test_equals_the_loop_over_patients(self, seed: int) -> None:
        time, event, _ = cohort(seed)
        curve = kaplan_meier(time, event).iloc[1:]
        for row, (moment, at_risk, deaths, survival, greenwood) in zip(
            curve.itertuples(), loop_curve(time, event), strict=True
        ):
            assert (row.time, row.at_risk, row.events) == (moment, at_risk, deaths)
            assert row.survival == pytest.approx(survival)
            if 0 < survival < 1:
                spread = stats.norm.ppf(0.975) * np.sqrt(greenwood) / abs(np.log(survival))
                assert row.low == pytest.approx(survival ** np.exp(spread))
                assert row.high == pytest.approx(survival ** np.exp(-spread))

    @pytest.mark.parametrize("ties", [True, False])
    def test_equals_scipy(self, ties: bool) -> None:
        time, event, _ = cohort(6, ties=ties)
        theirs = stats.ecdf(stats.CensoredData(uncensored=time[event], right=time[~event])).sf
        curve = kaplan_meier(time, event).iloc[1:]
        np.testing.assert_allclose(curve["survival"], theirs.evaluate(curve["time"]))
        with np.errstate(all="ignore"):
            bounds = theirs.confidence_interval(method="log-log")
        inside = (curve["survival"] > 0) & (curve["survival"] < 1)
        moments = curve["time"][inside]
        np.testing.assert_allclose(curve["low"][inside], bounds.low.evaluate(moments), rtol=1e-10)
        np.testing.assert_allclose(curve["high"][inside], bounds.high.evaluate(moments), rtol=1e-10)

    def test_by_hand(self) -> None:
        """Three patients: an event at 1, one censored at 2, an event at 3."""
        curve = kaplan_meier([3.0, 1, 2], [True, True, False])
        assert curve["time"].tolist() == [0, 1, 2, 3]
        assert curve["at_risk"].tolist() == [3, 3, 2, 1]
        np.testing.assert_allclose(curve["survival"], [1, 2 / 3, 2 / 3, 0])
        # Greenwood at 1: sqrt(1 / (3 * 2)) / |log(2/3)| = 1.0069, times 1.96
        assert curve["low"][1] == pytest.approx((2 / 3) ** np.exp(1.959964 * 1.006860), rel=1e-4)

    def test_without_events_stays_at_one_and_warns_of_nothing(self) -> None:
        curve = kaplan_meier([0.0, 5], [False, False])
        assert curve["survival"].tolist() == curve["low"].tolist() == curve["high"].tolist() == [1, 1]

    def test_where_it_is_zero_there_is_no_interval(self) -> None:
        assert np.isnan(kaplan_meier([1.0, 2], [True, True])["low"].iloc[-1])

    @pytest.mark.parametrize("time", [[], [-1.0], [np.nan]])
    def test_impossible_times_are_refused(self, time: list[float]) -> None:
        with pytest.raises(UserError, match="follow-up times are missing, negative"):
            kaplan_meier(time, [True] * len(time))


class TestLogRank:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("groups", [2, 3])
    def test_equals_the_loop_over_event_times(self, seed: int, groups: int) -> None:
        time, event, _ = cohort(seed)
        group = np.random.default_rng(seed).integers(groups, size=len(time)).astype(str)
        found = log_rank(time, event, group)
        assert found.statistic == pytest.approx(loop_log_rank(time, event, group))
        assert found.freedom == groups - 1
        assert found.p == pytest.approx(stats.chi2.sf(found.statistic, groups - 1))
        assert sum(found.observed) == event.sum() == pytest.approx(sum(found.expected))

    @pytest.mark.parametrize("seed", range(3))
    def test_equals_scipy(self, seed: int) -> None:
        time, event, _ = cohort(seed)
        group = np.arange(len(time)) % 2 == 0
        sides = [stats.CensoredData(uncensored=time[g & event], right=time[g & ~event]) for g in (group, ~group)]
        theirs = stats.logrank(*sides)
        found = log_rank(time, event, group)
        assert found.statistic == pytest.approx(theirs.statistic**2)
        assert found.p == pytest.approx(theirs.pvalue)

    def test_tells_apart_what_differs_and_not_what_is_equal(self) -> None:
        random = np.random.default_rng(0)
        group = np.arange(200) % 2
        different = random.exponential(np.where(group == 1, 1.0, 3.0))
        assert log_rank(different, np.ones(200, bool), group).p < 1e-6
        twice = np.repeat(random.exponential(size=100), 2)
        assert log_rank(twice, np.ones(200, bool), group).p == pytest.approx(1)

    def test_without_events_nothing_is_told(self) -> None:
        found = log_rank([1.0, 2], [False, False], ["a", "b"])
        assert (found.statistic, found.freedom, found.p) == (0, 0, 1)

    def test_one_group_is_refused(self) -> None:
        with pytest.raises(UserError, match="two groups"):
            log_rank([1.0, 2], [True, True], ["a", "a"])
