"""Every task over bags: separate losses, half precision, prediction, contributions, learning, labels."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from core.evaluation.metrics import point
from core.evaluation.survival import concordance
from core.mil.aggregators.mean import MeanPooling
from core.mil.step import TokenGroups
from core.mil.tasks.discrete_hazard import BagDiscreteHazard
from core.mil.tasks.multilabel import BagMultilabel
from core.mil.tasks.ordinal import BagOrdinal
from core.run.compose import CONF
from core.run.instantiate import instantiate
from core.training.step import Cached, Plain
from core.types import UserError
from tests.core.mil.task_worlds import (
    MAKERS,
    SEPARATE,
    WIDTH,
    assert_equal,
    columns,
    cut,
    gradients,
    loop_hazard,
    take,
    task,
    world,
)

KINDS = sorted(MAKERS)


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


# those of texts need a text tower: tests/core/run/test_songci.py trains and asks them
WITHOUT_TEXTS = [
    path for path in sorted((CONF / "bag_task").glob("*.yaml")) if path.stem not in ("alignment", "songci")
]


@pytest.mark.parametrize("path", WITHOUT_TEXTS, ids=lambda path: path.stem)
def test_every_config_makes_a_task_that_predicts(path) -> None:
    cfg = OmegaConf.load(path).bag_task
    for key, value in (("classes", 3), ("labels", ["a", "b"])):
        if key in cfg:
            cfg[key] = value
    batch = world(dtype=torch.float32)
    assert len(instantiate(cfg, aggregator=MeanPooling(WIDTH, [])).predict(batch.bags)) == 12
