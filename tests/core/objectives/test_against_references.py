"""Every objective against its slow reference: values and gradients of all inputs, on one rank and on many."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from core.objectives.check import evaluate, example, join
from core.objectives.example import Example
from tests.core.objectives.cases import POLICIES, build, differentiate, errors, on_rank, slow, weigh

CASES = [(kind, policy) for kind in ("softmax", "sigmoid", "group_metric") for policy in POLICIES]
SCALES = [14.0, 100.0]


def bounds(tight: float, long_sums: float) -> dict[str, float]:
    return {"loss": tight, "images": tight, "texts": tight, "scale": long_sums, "bias": long_sums}


def assert_close(found, wanted, allowed: dict[str, float]) -> None:
    for name, error in errors(found, wanted).items():
        assert error <= allowed[name], f"{name}: {error:.1e} of its norm"


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("kind", "policy"), CASES)
class TestOneRank:
    def test_equals_the_reference_in_float64(self, kind: str, policy: str, scale: float) -> None:
        objective, batch = build(kind, policy), example(1, (9,))
        wanted = differentiate(slow(kind, policy), batch, scale, objective.initial_bias)
        assert_close(evaluate(objective, batch, scale), wanted, bounds(1e-10, 1e-10))

    def test_equals_the_reference_in_float32(self, kind: str, policy: str, scale: float) -> None:
        objective, batch = build(kind, policy), example(1, (9,), dtype=torch.float32)
        double = replace(batch, images=batch.images.double(), texts=batch.texts.double())
        wanted = differentiate(slow(kind, policy), double, scale, objective.initial_bias)
        assert_close(evaluate(objective, batch, scale), wanted, bounds(1e-5, 1e-4))

    def test_equals_the_reference_in_bf16(self, kind: str, policy: str, scale: float) -> None:
        objective, batch = build(kind, policy), example(1, (9,))
        half = replace(batch, images=batch.images.bfloat16(), texts=batch.texts.bfloat16())
        double = replace(batch, images=half.images.double(), texts=half.texts.double())
        wanted = differentiate(slow(kind, policy), double, scale, objective.initial_bias)
        found = evaluate(objective, half, scale)
        assert found.images.dtype == torch.bfloat16
        assert_close(found, wanted, bounds(2e-2, 2e-2))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_sample_weights_equal_the_reference(kind: str) -> None:
    objective, batch = build(kind, "soft"), weigh(example(2, (9,)))
    wanted = differentiate(slow(kind, "soft"), batch, 14.0, objective.initial_bias)
    assert_close(evaluate(objective, batch, 14.0), wanted, bounds(1e-10, 1e-10))


@pytest.mark.parametrize("sizes", [(12,), (7, 5), (5, 0, 4, 3)], ids=["1_rank", "2_ranks", "4_ranks_one_empty"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("kind", "policy"), CASES)
def test_ranks_sum_to_the_reference(ranks, kind: str, policy: str, scale: float, sizes: tuple[int, ...]) -> None:
    batch = example(3, sizes)
    wanted = _whole(kind, policy, scale, batch)
    found = join(ranks.run(on_rank, len(sizes), kind, policy, scale, 3, sizes))
    assert_close(found, wanted, bounds(1e-10, 1e-10))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_sample_weights_over_ranks_equal_the_reference(ranks, kind: str) -> None:
    wanted = _whole(kind, "soft", 14.0, weigh(example(3, (7, 5))))
    found = join(ranks.run(on_rank, 2, kind, "soft", 14.0, 3, (7, 5), True))
    assert_close(found, wanted, bounds(1e-10, 1e-10))


_known: dict[tuple, object] = {}


def _whole(kind: str, policy: str, scale: float, batch: Example):
    """The reference on the whole batch, once for all splits of it over ranks."""
    key = (kind, policy, scale, batch.targets.row_weight is None)
    if key not in _known:
        bias = build(kind, policy).initial_bias
        _known[key] = differentiate(slow(kind, policy), batch, scale, bias)
    return _known[key]
