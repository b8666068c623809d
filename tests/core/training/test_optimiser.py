"""Learning rates and weight decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.training.module import seed_torch
from core.training.optimiser import CosineWarmup, decay_groups
from core.types import UserError
from tests.core.models.test_dual_encoder import from_config


def test_cosine_with_warm_up_by_hand() -> None:
    schedule = CosineWarmup(steps=12, warmup_steps=4, final=0.1)
    assert [schedule.factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule.factor(4) == 1.0
    assert schedule.factor(8) == pytest.approx(0.55)  # half of the cosine: (1 + 0.1) / 2
    assert schedule.factor(12) == pytest.approx(0.1)


@pytest.mark.parametrize(("steps", "warmup"), [(0, 0), (5, 6), (5, -1)])
def test_impossible_schedules_are_refused(steps: int, warmup: int) -> None:
    with pytest.raises(UserError):
        CosineWarmup(steps, warmup)


def test_matrices_decay_and_nothing_else() -> None:
    model = from_config("small")
    decayed, others = decay_groups(model, 0.2)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.2, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    kept = {names[id(parameter)] for parameter in others["params"]}
    assert len(decayed["params"]) + len(others["params"]) == len(names)
    for name in names.values():
        one_dimensional = model.get_parameter(name).ndim < 2
        table = name.endswith(("token_embedding.weight", "positional_embedding"))
        assert (name in kept) == (one_dimensional or table), name
    assert "logit_scale" in kept
    assert "text_tower.backbone.text_projection" not in kept


def test_frozen_parameters_are_left_out() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.requires_grad_(False)
    (group,) = decay_groups(layer, 0.2)
    assert group["params"] == [layer.bias]


def test_random_numbers_depend_on_seed_step_and_rank() -> None:
    def draw(*key: int) -> float:
        seed_torch(*key)
        return float(torch.rand(()))

    with torch.random.fork_rng():
        assert draw(1, 2, 3) == draw(1, 2, 3)
        assert len({draw(1, 2, 3), draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4)}) == 4
