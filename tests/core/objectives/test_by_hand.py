"""Values worked out by hand, and what happens at the edges."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from core.objectives.check import evaluate, example
from core.objectives.exchange import LocalExchange
from core.objectives.group_metric import GroupMetric
from core.objectives.sigmoid import SigmoidContrastive
from core.objectives.softmax import SoftmaxContrastive
from core.types import Policy, Relation, Targets, UserError
from tests.core.objectives.cases import errors

ALL = [SoftmaxContrastive, SigmoidContrastive, GroupMetric]
OUT = math.nan
NOTHING = Policy(OUT, OUT, OUT, OUT, OUT, OUT, OUT)


def targets(groups: list[int], sets: list[int] | None = None, codes: torch.Tensor | None = None) -> Targets:
    """One caption per image; ``codes`` [U, U] are relations between sets."""
    count = len(groups)
    number, group = torch.arange(count), torch.tensor(groups)
    own_set = number if sets is None else torch.tensor(sets)
    codes = torch.zeros(count, count, dtype=torch.int8) if codes is None else codes
    row, column = codes.nonzero(as_tuple=True)
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(row, minlength=len(codes)).cumsum(0)])
    splits = (0, count)
    return Targets(
        number, number, group, group, own_set, own_set, indptr, column, codes[row, column], splits, splits
    )  # fmt: skip


def loss(objective, s: list[list[float]], to: Targets) -> torch.Tensor:
    """Loss of given logits: the images are the rows of S and the texts the unit vectors."""
    images = torch.tensor(s, dtype=torch.float64)
    texts = torch.eye(len(s[0]), dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    return objective(images, texts, to, one, 0 * one, LocalExchange()).loss


def test_clip_loss_of_two_pairs_by_hand() -> None:
    """S = [[2, 0], [1, 3]]: rows log(1 + e^-2), log(1 + e^-2); columns log(1 + e^-1), log(1 + e^-3).

    Half of each mean: (0.126928 + 0.126928) / 4 + (0.313262 + 0.048587) / 4 = 0.153926.
    """
    assert float(loss(SoftmaxContrastive(), [[2, 0], [1, 3]], targets([0, 1]))) == pytest.approx(0.153926, abs=1e-6)


def test_siglip_loss_of_two_pairs_by_hand() -> None:
    """S = [[2, 0], [1, 3]]: softplus(-2) + softplus(0) + softplus(1) + softplus(-3), over 2 images.

    (0.126928 + 0.693147 + 1.313262 + 0.048587) / 2 = 1.090962.
    """
    assert float(loss(SigmoidContrastive(), [[2, 0], [1, 3]], targets([0, 1]))) == pytest.approx(1.090962, abs=1e-6)


def test_two_positives_by_hand() -> None:
    """Two captions of one group, S = [[1, 0], [0, 1]], targets all 1/2: each line log(e + 1) - 1/2 = 0.813262."""
    value = loss(SoftmaxContrastive(Policy(group=1.0)), [[1, 0], [0, 1]], targets([0, 0]))
    assert float(value) == pytest.approx(0.813262, abs=1e-6)


GROUPS = [[2.0, 1.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 3.0], [0.0, 0.0, 3.0, 3.0]]


def test_group_metric_of_two_by_two_groups_by_hand() -> None:
    """Groups {0, 1} and {2, 3}, S as above (symmetric, so that both directions agree).

    First group: e^P = 2 / (e^-2 + e^-1) = 2 / 0.503215 = 3.974446, sum of e^N = 4 e^0 = 4,
    loss -log(3.974446 / 7.974446) = 0.696357.
    Second: e^P = 2 / (2 e^-3) = e^3 = 20.085537, loss -log(20.085537 / 24.085537) = 0.181611.
    Mean 0.438984.
    """
    assert float(loss(GroupMetric(), GROUPS, targets([0, 0, 1, 1]))) == pytest.approx(0.438984, abs=1e-6)


def test_group_metric_leaves_a_related_block_out_by_hand() -> None:
    """A third group {4} whose set is an ancestor of the first group's: its cosines to it, 9, never count.

    S adds a line [9, 9, 0, 0, 1] and its transpose. First group as before: its negatives are the second's, 4.
    Second: 4 + 2 e^0 = 6, -log(20.085537 / 26.085537) = 0.261381.
    Third: e^1 against 2 e^0, -log(e / (e + 2)) = 0.551445.
    Mean (0.696357 + 0.261381 + 0.551445) / 3 = 0.503061.
    """
    s = [[*line, extra] for line, extra in zip(GROUPS, [9.0, 9.0, 0.0, 0.0], strict=True)] + [[9.0, 9.0, 0.0, 0.0, 1.0]]
    codes = torch.zeros(3, 3, dtype=torch.int8)
    codes[2, 0], codes[0, 2] = Relation.ANCESTOR, Relation.DESCENDANT
    value = loss(GroupMetric(), s, targets([0, 0, 1, 1, 2], [0, 0, 1, 1, 2], codes))
    assert float(value) == pytest.approx(0.503061, abs=1e-6)


def test_leaving_out_changes_the_gradient_of_exactly_the_related_pairs() -> None:
    codes = torch.zeros(3, 3, dtype=torch.int8)
    codes[2, 0] = Relation.ANCESTOR
    to = targets([0, 1, 2], None, codes)
    images = torch.tensor([[3.0, 1.0, 0.5], [0.0, 2.0, 1.0], [1.0, 0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    one, texts = torch.ones((), dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    for objective in (GroupMetric(), SoftmaxContrastive(Policy.graph()), SigmoidContrastive(Policy.graph())):
        value = objective(images, texts, to, one, 0 * one, LocalExchange()).loss
        (of_logits,) = torch.autograd.grad(value, images)  # texts are unit vectors: this is dL/dS
        assert (of_logits == 0).nonzero().tolist() == [[2, 0]]


def test_groups_of_one_pair_make_the_group_metric_infonce() -> None:
    batch = example(0, (8,))
    first = torch.cat([(batch.targets.column_owner == i).nonzero()[0] for i in range(8)])
    single = replace(batch, texts=batch.texts[first], targets=targets(list(range(8))))
    found = evaluate(GroupMetric(Policy.diagonal()), single, 100.0)
    assert max(errors(found, evaluate(SoftmaxContrastive(), single, 100.0)).values()) <= 1e-10


@pytest.mark.parametrize("objective", [SoftmaxContrastive(NOTHING), SigmoidContrastive(NOTHING)])
def test_a_batch_with_every_pair_left_out_has_loss_and_gradient_zero(objective) -> None:
    found = evaluate(objective, example(0, (6,)), 100.0)
    assert all(float(value.abs().max()) == 0 for value in found.compared().values())


@pytest.mark.parametrize("kind", ALL)
def test_rows_with_everything_but_the_positives_left_out_have_loss_and_gradient_zero(kind) -> None:
    policy = Policy(OUT, OUT, OUT, OUT, OUT, OUT, 1.0)
    batch = example(0, (6,))
    first = torch.cat([(batch.targets.column_owner == i).nonzero()[0] for i in range(6)])
    single = replace(batch, texts=batch.texts[first], targets=targets(list(range(6))))
    found = evaluate(kind(policy), single, 100.0)
    if kind is SigmoidContrastive:  # a positive has its own cross-entropy; nothing else may enter
        s = 100 * (single.images * single.texts).sum(1) - 10
        assert float(found.loss) == pytest.approx(float(torch.logaddexp(0 * s, -s).mean()), rel=1e-12)
    else:
        assert all(float(value.abs().max()) == 0 for value in found.compared().values())


@pytest.mark.parametrize("kind", ALL)
def test_images_without_a_caption_serve_as_negatives_and_give_no_nan(kind) -> None:
    batch = example(4, (8,))
    kept = batch.targets.column_owner > 1
    to = replace(
        batch.targets,
        column_owner=batch.targets.column_owner[kept],
        column_group=batch.targets.column_group[kept],
        column_set=batch.targets.column_set[kept],
        column_splits=(0, int(kept.sum())),
    )
    found = evaluate(kind(Policy.diagonal()), replace(batch, texts=batch.texts[kept], targets=to), 100.0)
    assert all(torch.isfinite(value).all() for value in found.compared().values())
    assert float(found.images[0].norm()) > 0


@pytest.mark.parametrize("kind", ALL)
def test_a_batch_without_captions_is_zero(kind) -> None:
    batch = example(4, (4,))
    none = torch.zeros(0, dtype=torch.int64)
    to = replace(batch.targets, column_owner=none, column_group=none, column_set=none, column_splits=(0, 0))
    found = evaluate(kind(), replace(batch, texts=batch.texts[:0], targets=to), 14.0)
    assert all(float(value.abs().sum()) == 0 for value in found.compared().values())


@pytest.mark.parametrize("kind", ALL)
def test_values_of_a_policy_that_mean_nothing_are_refused(kind) -> None:
    with pytest.raises(UserError, match="target"):
        kind(Policy(ancestor=-0.5))


def test_soft_values_above_one_are_refused_by_the_sigmoid_form() -> None:
    with pytest.raises(UserError, match=r"\[0, 1\]"):
        SigmoidContrastive(Policy(own=2.0))


def test_the_group_metric_refuses_sample_weights() -> None:
    batch = example(0, (6,))
    weighted = replace(batch, targets=replace(batch.targets, row_weight=torch.ones(6)))
    with pytest.raises(UserError, match="weights"):
        evaluate(GroupMetric(), weighted, 14.0)


def test_embeddings_that_do_not_fit_the_targets_are_refused() -> None:
    batch = example(0, (6,))
    with pytest.raises(UserError, match="holds 5 images"):
        SoftmaxContrastive()(
            batch.images[:5], batch.texts, batch.targets, torch.tensor(14.0), None, LocalExchange()
        )  # fmt: skip
