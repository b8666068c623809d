"""Intervals cover what they say, also with few units and few seeds."""

from __future__ import annotations

import numpy as np
import pytest

from core.evaluation.intervals import Draws, average, bootstrap, draw, summarise
from core.evaluation.metrics import mean


def test_interval_covers_the_truth_in_about_95_of_100_cohorts() -> None:
    """30 patients with 3 tiles each; tiles of a patient share most of their variance."""
    generator = np.random.default_rng(0)
    units = np.arange(30).repeat(3)
    hits = 0
    for cohort in range(300):
        values = generator.normal(size=30).repeat(3) + 0.5 * generator.normal(size=90)
        _, low, high = bootstrap(mean(values), units, seed=cohort)
        hits += low <= 0 <= high
    assert 0.91 <= hits / 300 <= 0.985  # 0.95 +- 3.2 standard errors


def test_resampling_items_instead_of_units_would_be_too_narrow() -> None:
    values = np.random.default_rng(3).normal(size=30).repeat(10)
    by_unit = bootstrap(mean(values), np.arange(30).repeat(10))
    by_item = bootstrap(mean(values), np.arange(300))
    assert by_unit.high - by_unit.low > 2 * (by_item.high - by_item.low)


def test_mean_of_two_units_is_drawn_as_worked_by_hand() -> None:
    """Two units, 0 and 1: a draw of two gives 0, 1/2 or 1 with shares 1/4, 1/2, 1/4, so the bounds are 0 and 1."""
    assert bootstrap(mean([0.0, 1.0]), ["a", "b"]) == (0.5, 0.0, 1.0)


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    values = np.random.default_rng(0).normal(size=40)
    first, again, other = (bootstrap(mean(values), np.arange(40), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_one_unit_has_no_interval() -> None:
    value, low, high = bootstrap(mean([0.0, 1.0, 1.0]), ["a", "a", "a"])
    assert value == pytest.approx(2 / 3)
    assert np.isnan(low)
    assert np.isnan(high)


def _seeds(generator: np.random.Generator, over_seeds: float, shared: float, own: float) -> Draws:
    """Five seeds on the same 60 items, with variance of seeds, of items and of items within a seed."""
    items = shared * generator.normal(size=60)
    values = [over_seeds * generator.normal() + items + own * generator.normal(size=60) for _ in range(5)]
    return draw([mean(v) for v in values], [np.arange(60)] * 5)


@pytest.mark.parametrize(("over_seeds", "shared", "own"), [(0.2, 0.0, 1.0), (0.0, 1.0, 0.3), (0.3, 1.0, 0.3)])
def test_intervals_over_five_seeds_do_not_claim_what_is_not_there(over_seeds: float, shared: float, own: float) -> None:
    """A plain percentile interval over five seeds claims in about 15 of 100 cases without any effect."""
    generator = np.random.default_rng(5)
    summaries = [summarise(_seeds(generator, over_seeds, shared, own)) for _ in range(150)]
    claims = np.mean([summary.verdict("higher") != "undecided" for summary in summaries])
    assert claims <= 0.09


def test_a_large_effect_is_found_and_its_sign_read_by_what_is_better() -> None:
    drawn = _seeds(np.random.default_rng(0), 0.1, 0.3, 0.3)
    up = summarise(Draws(drawn.points + 1, drawn.values + 1, drawn.units))
    down = summarise(Draws(drawn.points - 1, drawn.values - 1, drawn.units))
    assert [up.verdict("higher"), up.verdict("lower")] == ["better", "worse"]
    assert [down.verdict("higher"), down.verdict("lower")] == ["worse", "better"]
    assert up.replicates == 5
    assert up.spread == (pytest.approx(drawn.points.min() + 1), pytest.approx(drawn.points.max() + 1))


def test_pairing_takes_out_what_both_sides_share() -> None:
    """Items differ by a lot, the two models on an item by little: 2 / 2.8 apart in standard errors."""
    generator = np.random.default_rng(0)
    hard = generator.normal(size=100)
    units = [np.arange(100)]
    one = draw([mean(hard + 0.1 * generator.normal(size=100))], units)
    other = draw([mean(hard + 0.1 * generator.normal(size=100))], units)
    paired, alone = summarise(one - other), summarise(one)
    assert paired.high - paired.low < 0.25 * (alone.high - alone.low)
    assert paired.detectable == pytest.approx(2.80 * 0.1 * np.sqrt(2 / 100), rel=0.2)


def test_averaging_over_another_factor_keeps_the_pairing() -> None:
    first = Draws(np.array([1.0, 2]), np.array([[1.0, 2], [3, 4]]), 9)
    second = Draws(np.array([3.0, 4]), np.array([[5.0, 6], [7, 8]]), 9)
    both = average([first, second])
    assert both.points.tolist() == [2, 3]
    assert both.values.tolist() == [[3, 4], [5, 6]]


def test_without_any_difference_nothing_is_decided() -> None:
    drawn = _seeds(np.random.default_rng(0), 0.1, 0.3, 0.3)
    assert summarise(drawn - drawn).verdict("higher") == "undecided"
