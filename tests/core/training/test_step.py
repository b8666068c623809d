"""Plain and Cached steps give the gradients of the global batch, on one rank and on many."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from core.training.step import Cached, Plain
from core.types import Encoded, LossTerms, UserError
from tests.core.training.small_task import (
    SmallTask,
    batch_of,
    cached,
    clipped,
    gradients,
    objective,
    on_rank,
    one_graph,
    plain,
    take,
)

SCALES = [14.0, 100.0]
KINDS = ["softmax", "sigmoid"]


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], bound: float = 1e-10) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        error = float((found[name] - value).norm() / value.norm())
        assert error <= bound, f"{name}: {error:.1e} of its norm"


def whole(kind: str, scale: float) -> tuple[LossTerms, dict[str, torch.Tensor]]:
    """Plain on one rank, without dropout."""
    task = SmallTask(objective(kind), scale)
    return take(Plain(), task, batch_of((12,))), gradients(task)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
class TestEqualGradients:
    """Temperature, bias and own terms included."""

    @pytest.mark.parametrize("micro_batch", [1, 5, 12, 50])
    def test_cached_equals_plain(self, kind: str, scale: float, micro_batch: int) -> None:
        terms, wanted = whole(kind, scale)
        task = SmallTask(objective(kind), scale)
        found = take(Cached(micro_batch), task, batch_of((12,)))
        assert_equal(gradients(task), wanted)
        assert_equal({"loss": found.loss, **found.parts}, {"loss": terms.loss, **terms.parts})

    @pytest.mark.parametrize("sizes", [(12,), (5, 7), (4, 1, 5, 2)], ids=["1_rank", "2_ranks", "4_ranks"])
    @pytest.mark.parametrize("make", [plain, cached])
    def test_ranks_equal_one_rank(self, ranks, make, kind: str, scale: float, sizes: tuple[int, ...]) -> None:
        terms, wanted = whole(kind, scale)
        results = ranks.run(on_rank, len(sizes), make, kind, scale, sizes)
        for _, _, found in results:
            assert_equal(found, wanted)
        parts = {name: sum(part[name] for _, part, _ in results) for name in terms.parts}
        assert_equal({"loss": sum(loss for loss, _, _ in results), **parts}, {"loss": terms.loss, **terms.parts})


def test_plain_in_single_precision_equals_double() -> None:
    _, wanted = whole("softmax", 14.0)
    task = SmallTask(objective("softmax"), 14.0, dtype=torch.float32)
    take(Cached(5), task, batch_of((12,)))
    assert_equal({name: value.double() for name, value in gradients(task).items()}, wanted, 1e-5)


@pytest.mark.parametrize("scale", SCALES)
def test_dropout_is_replayed(scale: float) -> None:
    """Against the same micro-batches in one graph; another seed gives another gradient."""
    found, wanted, other = [SmallTask(objective("softmax"), scale, dropout=0.5) for _ in range(3)]
    torch.manual_seed(3)
    one_graph(wanted, batch_of((12,)), 5)
    torch.manual_seed(3)
    take(Cached(5), found, batch_of((12,)))
    assert_equal(gradients(found), gradients(wanted))
    torch.manual_seed(4)
    take(Cached(5), other, batch_of((12,)))
    assert float((gradients(other)["image.1.weight"] - gradients(wanted)["image.1.weight"]).norm()) > 1e-3


def test_dropout_of_one_micro_batch_equals_plain() -> None:
    found, wanted = [SmallTask(objective("softmax"), 14.0, dropout=0.5) for _ in range(2)]
    torch.manual_seed(3)
    take(Plain(), wanted, batch_of((12,)))
    after = torch.rand(())
    torch.manual_seed(3)
    take(Cached(12), found, batch_of((12,)))
    assert torch.rand(()) == after, "what comes after the step draws other numbers"
    assert_equal(gradients(found), gradients(wanted), 1e-13)


def test_dropout_is_replayed_on_ragged_ranks(ranks) -> None:
    """Every rank has one micro-batch or more; Cached whose micro-batches hold everything is Plain, dropout included."""
    wanted = ranks.run(on_rank, 2, plain, "softmax", 14.0, (2, 3), 0.5)
    found = ranks.run(on_rank, 2, cached, "softmax", 14.0, (2, 3), 0.5)
    for (_, _, theirs), (_, _, ours) in zip(wanted, found, strict=True):
        assert_equal(ours, theirs)


def test_clipping_limits_the_norm_of_the_global_gradient(ranks) -> None:
    _, wanted = whole("softmax", 14.0)
    norm = torch.stack([value.norm() for value in wanted.values()]).norm()
    results = ranks.run(on_rank, 2, clipped, "softmax", 14.0, (5, 7))
    assert float(sum(parts["grad_norm"] for _, parts, _ in results)) == pytest.approx(float(norm), rel=1e-10)
    for _, _, found in results:
        assert_equal(found, {name: value * (0.01 / norm) for name, value in wanted.items()}, 1e-3)


def test_a_small_gradient_is_not_clipped() -> None:
    _, wanted = whole("softmax", 14.0)
    task = SmallTask(objective("softmax"), 14.0)
    take(Plain(clip_norm=1e6), task, batch_of((12,)))
    assert_equal(gradients(task), wanted)


def test_cached_learns_under_autocast() -> None:
    """Half-precision weights that autocast keeps from the pass without gradient would cut the towers off."""
    _, wanted = whole("softmax", 14.0)
    task = SmallTask(objective("softmax"), 14.0, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        take(Cached(5), task, batch_of((12,)))
    found = gradients(task)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert float((found[name].double() - value).norm() / value.norm()) < 0.1, name


def test_cached_learns_with_a_frozen_tower() -> None:
    task, other = SmallTask(objective("softmax"), 14.0), SmallTask(objective("softmax"), 14.0)
    for each in (task, other):
        each.image.requires_grad_(False)
    take(Cached(5), task, batch_of((12,)))
    take(Plain(), other, batch_of((12,)))
    assert_equal(gradients(task), gradients(other))
    assert "image.1.weight" not in gradients(task)


class _Supervised(nn.Module):
    """Nothing couples the samples: the loss comes out of ``encode``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(48, 3).double()

    def encode(self, batch, share: float) -> Encoded:
        logits = self.head(batch.images.flatten(1).double() / 255)
        total = nn.functional.cross_entropy(logits, batch.labels, reduction="sum")
        return Encoded({}, {"cross_entropy": total / len(batch.ids) * share})

    def loss(self, encoded: Encoded, exchange) -> LossTerms:
        return LossTerms(torch.zeros(()))


def test_a_task_without_coupled_samples_accumulates() -> None:
    batch = replace(batch_of((12,)), targets=None, labels=torch.arange(12) % 3)
    found, wanted = _Supervised(), _Supervised()
    ours, theirs = take(Cached(5), found, batch), take(Plain(), wanted, batch)
    assert_equal(gradients(found), gradients(wanted))
    assert float(ours.loss) == pytest.approx(float(theirs.loss))
    assert float(theirs.loss) == pytest.approx(float(nn.functional.cross_entropy(
        wanted.head(batch.images.flatten(1).double() / 255), batch.labels).detach()))  # fmt: skip


def test_cached_refuses_batch_norm_in_training_mode() -> None:
    task = SmallTask(objective("softmax"), 14.0)
    task.image.append(nn.BatchNorm1d(8).double())
    with pytest.raises(UserError, match=r"image\.5 is a BatchNorm"):
        take(Cached(5), task, batch_of((12,)))
    task.image[-1].eval()
    take(Cached(5), task, batch_of((12,)))


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="micro_batch"):
        Cached(0)
    with pytest.raises(UserError, match="clip_norm"):
        Plain(clip_norm=0.0)
