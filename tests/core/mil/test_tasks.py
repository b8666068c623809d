"""Losses over bags equal slow loops, do not depend on micro-batches, groups or ranks, and are learned from."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from core.evaluation.metrics import point
from core.evaluation.survival import concordance
from core.mil.aggregators.mean import MeanPooling
from core.mil.step import TokenGroups
from core.mil.tasks.cox import BagCox, partial_likelihood
from core.mil.tasks.discrete_hazard import BagDiscreteHazard, hazard_loss, quantile_edges
from core.mil.tasks.multilabel import BagMultilabel
from core.mil.tasks.ordinal import BagOrdinal, log_probabilities
from core.run.compose import CONF
from core.run.instantiate import instantiate
from core.training.step import Cached, Plain
from core.types import UserError
from tests.core.mil.task_worlds import (
    MAKERS,
    SEPARATE,
    WIDTH,
    columns,
    cut,
    gradients,
    on_rank,
    take,
    task,
    with_events,
    world,
)

KINDS = sorted(MAKERS)


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor], bound: float = 1e-10) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        error = float((found[name] - value).norm() / value.norm().clamp(min=1e-30))
        assert error <= bound, f"{name}: {error:.1e} of its norm"


# --------------------------------------------------------------------------------------------------------------------
# The maths


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


def loop_hazard(scores: np.ndarray, bins: np.ndarray, event: np.ndarray) -> list[float]:
    """Probability of what was seen of each patient, from hazards, by the words of the definition."""
    losses = []
    for row, place, happened in zip(1 / (1 + np.exp(-scores)), bins, event, strict=True):
        before = math.prod(1 - row[k] for k in range(place))
        losses.append(-math.log(before * (row[place] if happened else 1 - row[place])))
    return losses


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


# --------------------------------------------------------------------------------------------------------------------
# Every task


def loop_loss(kind: str, made, batch) -> float:
    """Mean loss of a batch, bag by bag, with plain Python numbers."""
    labels, losses = columns(batch), []
    for bag in range(len(batch.ids)):
        scores = made(batch.bags.part(bag, bag + 1))[0][0].tolist()
        if kind == "classification":
            losses.append(-math.log(math.exp(scores[labels["grade"][bag]]) / sum(map(math.exp, scores))))
        elif kind == "multilabel":
            for score, name in zip(scores, "ab", strict=True):
                there = 1 / (1 + math.exp(-score))
                losses.append(-math.log(there if labels[f"label.{name}"][bag] else 1 - there))
        elif kind == "regression":
            mean, deviation = labels["burden"].mean(), labels["burden"].std()
            losses.append((scores[0] - (labels["burden"][bag] - mean) / deviation) ** 2)
        elif kind == "ordinal":
            bounds = [0.0, 1 / (1 + math.exp(scores[0] + 0.5)), 1 / (1 + math.exp(scores[0] - 0.5)), 1.0]
            grade = labels["grade"][bag]
            losses.append(-math.log(bounds[grade + 1] - bounds[grade]))
        else:
            event = labels["event"] > 0
            place = sum(int(labels["time"][bag] >= edge) for edge in made.edges.tolist())
            losses += loop_hazard(np.array([scores]), np.array([place]), event[bag : bag + 1])
    return float(np.mean(losses))


@pytest.mark.parametrize("kind", SEPARATE)
class TestSeparateLosses:
    def test_equal_the_loop_over_bags(self, kind: str) -> None:
        batch = world()
        made = task(kind, batch)
        # buffers of a prepared regression are float32 until the model is made double
        assert float(take(Plain(), made, batch).loss) == pytest.approx(loop_loss(kind, made, batch), rel=1e-6)

    @pytest.mark.parametrize("clam", [False, True], ids=["abmil", "clam"])
    def test_do_not_depend_on_micro_batches_and_groups(self, kind: str, clam: bool) -> None:
        wanted = task(kind, world(), clam)
        terms = take(Plain(), wanted, world())
        assert ("instance" in terms.parts) == (clam and kind in ("classification", "ordinal"))
        for step in (Cached(5), TokenGroups(15)):
            made = task(kind, world(), clam)
            found = take(step, made, world())
            assert_equal(gradients(made), gradients(wanted))
            assert_equal({"loss": found.loss, **found.parts}, {"loss": terms.loss, **terms.parts})

    def test_shares_of_ranks_sum_to_the_whole(self, kind: str) -> None:
        wanted, made = task(kind, world()), task(kind, world())
        take(Plain(), wanted, world())
        for rank, size in enumerate((4, 1, 7)):
            encoded = made.encode(cut(world(), (4, 1, 7), rank), size / 12)
            sum(encoded.terms.values()).backward()
        assert_equal(gradients(made), gradients(wanted))


@pytest.mark.parametrize("kind", KINDS)
class TestEveryTask:
    def test_is_finite_in_bf16(self, kind: str) -> None:
        batch = world(dtype=torch.float32)
        wanted, made = task(kind, batch), task(kind, batch)
        exact = take(Plain(), wanted, batch)
        with torch.autocast("cpu", torch.bfloat16):
            terms = take(Plain(), made, batch)
        assert abs(float(terms.loss - exact.loss)) <= 2e-2 * abs(float(exact.loss))
        size = math.sqrt(sum(float(value.norm()) ** 2 for value in gradients(wanted).values()))
        for name, value in gradients(made).items():
            assert torch.isfinite(value).all(), name
            assert float((value - gradients(wanted)[name]).norm()) <= 0.05 * size, name

    def test_whole_model_in_bf16_is_finite(self, kind: str) -> None:
        batch = world(dtype=torch.bfloat16)
        made = task(kind, batch)
        assert torch.isfinite(take(Plain(), made, batch).loss)
        assert all(torch.isfinite(value).all() for value in gradients(made).values())
        assert np.isfinite(made.predict(batch.bags)).all()

    def test_cached_equals_plain_with_dropout_replayed(self, kind: str) -> None:
        plain, cached = task(kind, world(), dropout=0.4), task(kind, world(), dropout=0.4)
        torch.manual_seed(3)
        take(Plain(), plain, world())
        torch.manual_seed(3)
        take(Cached(12), cached, world())
        assert_equal(gradients(cached), gradients(plain))

    def test_prediction_is_without_dropout_and_leaves_every_mode_as_it_was(self, kind: str) -> None:
        batch = world(dtype=torch.float32)
        made = task(kind, batch, dropout=0.9)
        made.train()
        made.head.eval()
        first, second = made.predict(batch.bags), made.predict(batch.bags)
        np.testing.assert_array_equal(first, second)
        assert first.dtype == np.float32
        assert len(first) == 12
        assert made.aggregator.training
        assert not made.head.training

    def test_contributions_sum_to_the_scores(self, kind: str) -> None:
        batch = world()
        made = task(kind, batch)
        shares = torch.from_numpy(made.contributions(batch.bags)).double()
        sums = torch.zeros(12, shares.shape[1], dtype=torch.float64).index_add(0, batch.bags.owner, shares)
        bias = 0 if made.head.bias is None else made.head.bias
        torch.testing.assert_close(sums + bias, made(batch.bags)[0], rtol=1e-5, atol=1e-5)

    def test_is_learned_from_and_planted_tiles_speak_for_it(self, kind: str) -> None:
        """Trained on one set of bags, right on another; planted tiles contribute more than the others of their bag."""
        batch, fresh = world(96, 1, torch.float32), world(60, 2, torch.float32)
        made = task(kind, batch)
        optimiser = torch.optim.Adam(made.parameters(), 0.02)
        for _ in range(60):
            optimiser.zero_grad()
            take(Plain(), made, batch)
            optimiser.step()
        labels, guess = columns(fresh), made.predict(fresh.bags)
        if kind in ("cox", "breslow", "discrete_hazard"):
            of = concordance(labels["time"], labels["event"] > 0, made.risk(guess))
            assert point(of, 60) > 0.8
        elif kind == "regression":
            assert np.abs(guess - labels["burden"]).mean() < 0.5 * np.abs(labels["burden"] - 22.5).mean()
        elif kind == "multilabel":
            assert ((guess[:, 0] > 0.5) == labels["label.a"]).mean() > 0.85
        else:
            assert (guess.argmax(axis=1) == labels["grade"]).mean() > 0.7
        shares = made.contributions(fresh.bags)
        column = 2 if kind == "classification" else 0  # the highest grade; otherwise the first score
        planted = (fresh.bags.features[:, 0] > 1).numpy()
        assert shares[planted, column].mean() > shares[~planted, column].mean() + 0.01


# --------------------------------------------------------------------------------------------------------------------
# Labels


class TestLabels:
    def test_unknown_ones_count_as_zero_and_give_no_gradient(self) -> None:
        for kind, column, unknown in (("classification", "grade", -1), ("ordinal", "grade", -1),
                                      ("multilabel", "label.a", -1), ("regression", "burden", math.nan)):  # fmt: skip
            batch, made = world(), task(kind, world())
            take(Plain(), made, batch)
            whole = gradients(made)
            batch.labels[column][2:] = unknown
            if kind == "multilabel":
                batch.labels["label.b"][2:] = unknown
            made.zero_grad()
            loss = float(take(Plain(), made, batch).loss)
            few, alone = gradients(made), task(kind, world())
            assert loss == pytest.approx(float(take(Plain(), alone, world().part(0, 2)).loss) / 6)
            assert_equal(few, {name: value / 6 for name, value in gradients(alone).items()})
            assert any((few[name] - whole[name]).norm() > 1e-6 for name in whole)

    @pytest.mark.parametrize(
        ("kind", "column", "value", "match"),
        [
            ("classification", "grade", 3, r"grade of bag 'bag4' is 3.*from 0 to 2"),
            ("ordinal", "grade", -2, r"grade of bag 'bag4' is -2"),
            ("multilabel", "label.b", 2, r"label.b of bag 'bag4' is 2.*from 0 to 1"),
            ("regression", "burden", math.inf, r"burden of bag 'bag4' is infinite"),
            ("cox", "time", math.nan, r"time of bag 'bag4' is nan"),
            ("cox", "time", -1.0, r"time of bag 'bag4' is -1"),
            ("discrete_hazard", "event", 2.0, r"event of bag 'bag4' is 2.*censored"),
        ],
    )
    def test_impossible_ones_are_refused_by_name(self, kind: str, column: str, value: float, match: str) -> None:
        batch = world()
        batch.labels[column][4] = value
        with pytest.raises(UserError, match=match):
            task(kind, batch)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_missing_column_is_named(self, kind: str) -> None:
        batch = world()
        made, labels = MAKERS[kind](MeanPooling(WIDTH, [])), columns(batch)
        column = {"classification": "grade", "ordinal": "grade", "multilabel": "label.b", "regression": "burden"}.get(
            kind, "event"
        )
        del labels[column]
        with pytest.raises(UserError, match=column):
            made.prepare(labels, batch.ids, batch.ids)

    def test_nothing_to_learn_is_refused(self) -> None:
        for kind, column, value in (("classification", "grade", -1), ("multilabel", "label.a", -1),
                                    ("regression", "burden", 4.0), ("cox", "event", 0.0)):  # fmt: skip
            batch = world()
            batch.labels[column].fill_(value)
            with pytest.raises(UserError, match=f"{column}|event"):
                task(kind, batch)

    def test_a_patient_with_two_times_is_named(self) -> None:
        batch = world()
        with pytest.raises(UserError, match="'patient0' have different follow-up"):
            task("cox", batch).prepare(columns(batch), batch.ids, [f"patient{i // 6}" for i in range(12)])

    def test_a_task_without_outputs_is_refused(self) -> None:
        for make, match in ((partial(BagMultilabel, MeanPooling(WIDTH, []), []), "no labels"),
                            (partial(BagOrdinal, MeanPooling(WIDTH, []), 1), "at least two"),
                            (partial(BagDiscreteHazard, MeanPooling(WIDTH, []), 1), "at least two")):  # fmt: skip
            with pytest.raises(UserError, match=match):
                make()


@pytest.mark.parametrize("path", sorted((CONF / "bag_task").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_makes_a_task_that_predicts(path) -> None:
    cfg = OmegaConf.load(path).bag_task
    for key, value in (("classes", 3), ("labels", ["a", "b"])):
        if key in cfg:
            cfg[key] = value
    batch = world(dtype=torch.float32)
    assert len(instantiate(cfg, aggregator=MeanPooling(WIDTH, [])).predict(batch.bags)) == 12
