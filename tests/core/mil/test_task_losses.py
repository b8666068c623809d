"""Losses of tasks over bags equal textbook loops, by hand, at far ends and over ranks."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch

from core.mil.aggregators.mean import MeanPooling
from core.mil.step import TokenGroups
from core.mil.tasks.cox import BagCox, partial_likelihood
from core.mil.tasks.discrete_hazard import BagDiscreteHazard, hazard_loss, quantile_edges
from core.mil.tasks.ordinal import BagOrdinal, log_probabilities
from core.training.step import Cached, Plain
from core.types import UserError
from tests.core.mil.task_worlds import (
    MAKERS,
    WIDTH,
    assert_equal,
    columns,
    gradients,
    loop_hazard,
    on_rank,
    take,
    task,
    with_events,
    world,
)


def loop_cox(risk: np.ndarray, time: np.ndarray, event: np.ndarray, ties: str) -> float:
    """Sum of the negative log partial likelihood, by event times as textbooks have it."""
    total = 0.0
    for moment in sorted({t for t, e in zip(time, event, strict=True) if e}):
        at_risk = sum(math.exp(r) for r, t in zip(risk, time, strict=True) if t >= moment)
        dead = [r for r, t, e in zip(risk, time, event, strict=True) if t == moment and e]
        for number in range(len(dead)):
            part = number / len(dead) if ties == "efron" else 0.0
            total += math.log(at_risk - part * sum(math.exp(r) for r in dead))
        total -= sum(dead)
    return total


class TestCox:
    @pytest.mark.parametrize("ties", ["efron", "breslow"])
    @pytest.mark.parametrize("seed", range(3))
    def test_equals_the_loop_over_event_times(self, ties: str, seed: int) -> None:
        random = np.random.default_rng(seed)
        risk, time, event = random.normal(size=30) * 3, random.integers(1, 8, 30), random.random(30) < 0.6
        found = partial_likelihood(torch.from_numpy(risk), torch.from_numpy(time), torch.from_numpy(event), ties)
        assert float(found.sum()) == pytest.approx(loop_cox(risk, time, event, ties), rel=1e-12)
        assert not found[~torch.from_numpy(event)].any()

    def test_by_hand(self) -> None:
        """Two of three patients die at 1, the third lives: Efron's second death shares its risk set by half."""
        risk, time = torch.tensor([0.0, math.log(2), 0.0], dtype=torch.float64), torch.tensor([1.0, 1, 2])
        event = torch.tensor([True, True, False])
        breslow, efron = (float(partial_likelihood(risk, time, event, ties).sum()) for ties in ("breslow", "efron"))
        assert breslow == pytest.approx(2 * math.log(4) - math.log(2))
        assert efron == pytest.approx(math.log(4) + math.log(4 - 1.5) - math.log(2))

    def test_without_ties_efron_is_breslow_and_gradients_are_those_of_differences(self) -> None:
        random = torch.Generator().manual_seed(0)
        risk = torch.randn(9, generator=random, dtype=torch.float64, requires_grad=True)
        event = torch.arange(9) % 3 > 0
        apart = torch.randperm(9, generator=random)
        torch.testing.assert_close(*(partial_likelihood(risk, apart, event, ties) for ties in ("efron", "breslow")))
        tied = apart // 3
        torch.autograd.gradcheck(lambda r: partial_likelihood(r, tied, event, "efron"), risk)

    def test_a_constant_changes_nothing_and_far_risks_stay_finite_in_single_precision(self) -> None:
        risk = torch.tensor([300.0, -300, 0, 80, -80], requires_grad=True)
        time, event = torch.tensor([1.0, 1, 2, 3, 3]), torch.tensor([True, True, False, True, True])
        terms = partial_likelihood(risk, time, event, "efron")
        (gradient,) = torch.autograd.grad(terms.sum(), risk)
        assert torch.isfinite(terms).all()
        assert torch.isfinite(gradient).all()
        torch.testing.assert_close(partial_likelihood(risk + 64, time, event, "efron"), terms)

    def test_times_that_single_precision_would_tie_are_told_apart(self) -> None:
        """2^24 and 2^24 + 1 days: the second patient is not at risk of dying first of the two."""
        batch = world(2)
        batch.labels["time"].copy_(torch.tensor([2.0**24, 2.0**24 + 1], dtype=torch.float64))
        batch.labels["event"].fill_(1.0)
        made = task("cox", batch)
        risk = made(batch.bags)[0][:, 0].detach()
        wanted = (torch.logsumexp(risk, 0) - risk[0]) / 2
        assert float(take(Plain(), made, batch).loss) == pytest.approx(float(wanted), rel=1e-12)

    @pytest.mark.parametrize("kind", ["cox", "breslow"])
    def test_a_batch_is_the_mean_over_its_events(self, kind: str) -> None:
        batch = world()
        made = task(kind, batch)
        risk = made(batch.bags)[0][:, 0].detach().numpy()
        time, event = batch.labels["time"].numpy(), batch.labels["event"].numpy() > 0
        wanted = loop_cox(risk, time, event, "breslow" if kind == "breslow" else "efron") / event.sum()
        assert float(take(Plain(), made, batch).loss) == pytest.approx(wanted, rel=1e-12)

    def test_a_batch_of_one_bag_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"one bag.*larger batches"):
            take(Plain(), task("cox", world()), world().part(0, 1))

    def test_groups_that_cannot_see_each_other_are_refused(self) -> None:
        with pytest.raises(UserError, match="step=cached"):
            take(TokenGroups(20), task("cox", world()), world())

    def test_an_unknown_way_with_ties_is_refused(self) -> None:
        with pytest.raises(UserError, match="efron or breslow"):
            BagCox(MeanPooling(WIDTH, []), "exact")  # type: ignore[arg-type]


class TestCoxOverRanks:
    """The shares of the ranks, and their gradients, sum to those of the whole batch."""

    @pytest.mark.parametrize("sizes", [(12,), (5, 7), (11, 1)], ids=["1_rank", "2_ranks", "2_ragged_ranks"])
    @pytest.mark.parametrize("step", [Plain, partial(Cached, 2)], ids=["plain", "cached"])
    @pytest.mark.parametrize("kind", ["cox", "breslow"])
    def test_equals_one_rank(self, ranks, step, sizes: tuple[int, ...], kind: str) -> None:
        self.compare(ranks, step, kind, sizes, None)

    @pytest.mark.parametrize("events", [[0] * 5 + [1] * 7, [0] * 12], ids=["none_on_rank_0", "none"])
    def test_a_rank_or_a_batch_without_events_takes_part(self, ranks, events: list[float]) -> None:
        self.compare(ranks, Plain, "cox", (5, 7), events)

    def compare(self, ranks, step, kind: str, sizes: tuple[int, ...], events: list[float] | None) -> None:
        made = task(kind, world())
        terms = take(Plain(), made, with_events(world(), events))
        results = ranks.run(on_rank, len(sizes), step, kind, sizes, events)
        for _, _, found in results:
            assert_equal(found, gradients(made))
        parts = {name: sum(part[name] for _, part, _ in results) for name in terms.parts}
        assert_equal({"loss": sum(loss for loss, _, _ in results), **parts}, {"loss": terms.loss, **terms.parts})


class TestHazards:
    @pytest.mark.parametrize("seed", range(3))
    def test_equals_the_loop(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        scores, bins, event = random.normal(size=(20, 4)), random.integers(4, size=20), random.random(20) < 0.5
        found = hazard_loss(torch.from_numpy(scores), torch.from_numpy(bins), torch.from_numpy(event))
        np.testing.assert_allclose(found, loop_hazard(scores, bins, event), rtol=1e-12)

    def test_what_can_happen_has_probability_one(self) -> None:
        """An event in one of the bins, or none until the end of the last."""
        scores = torch.randn(1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).expand(5, 4)
        bins, event = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([True, True, True, True, False])
        assert float((-hazard_loss(scores, bins, event)).exp().sum()) == pytest.approx(1)

    def test_gradients_are_those_of_differences_and_finite_far_out(self) -> None:
        scores = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
        bins, event = torch.arange(6) % 3, torch.arange(6) % 2 == 0
        torch.autograd.gradcheck(lambda s: hazard_loss(s, bins, event), scores)
        far = (scores.detach().float() * 1e4).requires_grad_()
        losses = hazard_loss(far, bins, event)
        (gradient,) = torch.autograd.grad(losses.sum(), far)
        assert torch.isfinite(losses).all()
        assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("ties", [[3.0] * 4 + [5, 6, 7, 7, 8], [1.0, 2, 3, 4, 5, 8, 8, 8, 8]], ids=["low", "high"])
    def test_ties_at_an_end_leave_no_bin_empty(self, ties: list[float]) -> None:
        """The best of all pairs of edges between two times, by search."""
        times, values = np.array(ties), np.unique(ties)
        middles = (values[1:] + values[:-1]) / 2

        def unequal(edges: tuple[float, ...]) -> int:
            return sum(abs(int((times < edge).sum()) - 3 * (k + 1)) for k, edge in enumerate(edges))

        best = min(itertools.combinations(middles, 2), key=unequal)
        assert quantile_edges(times, 3).tolist() == list(best)

    def test_a_time_on_an_edge_belongs_to_the_later_bin(self) -> None:
        assert quantile_edges(np.array([1.0, 2, 3, 4, 5, 6]), 2).tolist() == [3.5]
        batch = world()
        made = task("discrete_hazard", batch)
        first = float(made.edges[0])
        losses = []
        for time in (first - 1e-6, first, first + 1e-6):
            batch.labels["time"].fill_(time)
            losses.append(float(take(Plain(), made, batch).loss))
        assert losses[1] == losses[2] != losses[0]

    def test_bins_know_the_events_of_each_patient_once_and_no_censored_time(self) -> None:
        made = BagDiscreteHazard(MeanPooling(WIDTH, []), 2)
        labels = {"time": [1.0, 9, 9, 9, 9, 0.1, 0.1], "event": [1, 1, 1, 1, 1, 0, 0]}
        made.prepare(labels, list("abcdefg"), ["p", "q", "q", "q", "q", "r", "s"])
        assert made.edges.tolist() == [5]

    def test_too_many_bins_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"2 different times, too few for 3 bins.*fewer bins"):
            quantile_edges(np.array([1.0, 1, 1, 2]), 3)

    def test_training_without_bins_is_an_error_and_they_are_saved_with_the_weights(self) -> None:
        batch = world()
        fresh = MAKERS["discrete_hazard"](MeanPooling(WIDTH, [])).double()
        with pytest.raises(RuntimeError, match="prepare"):
            fresh.encode(batch, 1.0)
        prepared = MAKERS["discrete_hazard"](MeanPooling(WIDTH, [])).double()
        prepared.prepare(columns(batch), batch.ids, batch.ids)
        fresh.load_state_dict(prepared.state_dict())
        fresh.encode(batch, 1.0)

    def test_survival_falls_and_risk_rises_with_the_hazards(self) -> None:
        batch = world()
        made = task("discrete_hazard", batch)
        survival = made.predict(batch.bags)
        hazards = made(batch.bags)[0].sigmoid().detach().numpy()
        np.testing.assert_allclose(survival, np.cumprod(1 - hazards, axis=1), rtol=1e-5)
        np.testing.assert_allclose(made.risk(survival), -survival.sum(axis=1))


class TestOrdinal:
    def test_equals_differences_of_sigmoids(self) -> None:
        scores = torch.linspace(-3, 3, 7, dtype=torch.float64)
        first, gaps = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([0.5, 2.0], dtype=torch.float64)
        below = [0.0, -1.0, -0.5, 1.5, 0.0]
        for score, found in zip(scores.tolist(), log_probabilities(scores, first, gaps).exp().tolist(), strict=True):
            bounds = [0.0, *(1 / (1 + math.exp(score - t)) for t in below[1:4]), 1.0]
            assert found == pytest.approx([high - low for low, high in itertools.pairwise(bounds)], rel=1e-12)

    @pytest.mark.parametrize("classes", [2, 3, 5])
    def test_probabilities_sum_to_one_and_grades_rise_with_the_score(self, classes: int) -> None:
        made = BagOrdinal(MeanPooling(WIDTH, []), classes)
        table = made.outcome(torch.linspace(-6, 6, 9)[:, None]).detach().numpy()
        np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-5)
        assert (np.diff(table @ np.arange(classes)) > 0).all()

    def test_far_scores_have_finite_losses_and_gradients(self) -> None:
        scores = torch.tensor([-1e4, 1e4, 0.0], requires_grad=True)
        values = log_probabilities(scores, torch.tensor([0.0]), torch.tensor([1.0, 1e-3]))
        (gradient,) = torch.autograd.grad(values.sum(), scores)
        assert torch.isfinite(values).all()
        assert torch.isfinite(gradient).all()

    def test_gradients_are_those_of_differences(self) -> None:
        inputs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([-1.0, 0.3], [0.1], [0.7, 0.2])]
        torch.autograd.gradcheck(log_probabilities, inputs)
