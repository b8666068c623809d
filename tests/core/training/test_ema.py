"""The moving average of weights: against a loop by hand, through a resume, and in place of the weights at the end."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.training.checkpoint import LAST, read_checkpoint
from core.training.ema import Ema, trained
from core.training.fit import WEIGHTS, Interrupted
from core.types import UserError
from tests.core.training.test_fit import SignalAt, train

STEPS = 12


class Recorder:
    """Keeps the weights after every step; an updater, because that is where they can be seen. It comes first."""

    name = "recorder"

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def before_step(self, task: Any, batch: Any, step: int) -> None:
        if not self.seen:
            self.seen.append(copied(task))

    def after_step(self, task: Any, step: int) -> None:
        self.seen.append(copied(task))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def copied(task: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trained(task)}


def test_the_momentum_goes_along_half_a_cosine_or_stays() -> None:
    ema = Ema(0.9, 10)
    assert [ema.at(step) for step in (0, 5, 10)] == pytest.approx([0.9, 0.95, 1.0])
    assert ema.at(2) == pytest.approx(1 - 0.1 * (1 + 0.8090169944) / 2)
    assert [Ema(0.9, 10, final=0.9).at(step) for step in (0, 7)] == pytest.approx([0.9, 0.9])


@pytest.mark.parametrize("final", [1.0, 0.5])
def test_average_is_that_of_a_loop_and_takes_the_place_of_the_weights(tmp_path: Path, final: float) -> None:
    recorder, ema = Recorder(), Ema(0.5, STEPS, final)
    module = train(tmp_path, STEPS, updaters=[recorder, ema])
    for name, first in recorder.seen[0].items():
        wanted = first.double()
        for step, weights in enumerate(recorder.seen[1:]):
            wanted = ema.at(step) * wanted + (1 - ema.at(step)) * weights[name].double()
        torch.testing.assert_close(ema.average[name].double(), wanted, rtol=1e-5, atol=1e-6)
        assert not torch.equal(wanted.float(), recorder.seen[-1][name])
    kept = load_file(tmp_path / WEIGHTS)
    for name, parameter in module.task.named_parameters():
        assert torch.equal(parameter.cpu(), ema.average[name].cpu())
        assert torch.equal(kept[name.removeprefix("model.")], ema.average[name].cpu())


def test_a_resumed_run_has_the_same_average_to_the_bit(tmp_path: Path) -> None:
    whole = Ema(0.9, STEPS)
    train(tmp_path / "whole", STEPS, updaters=[whole])
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", STEPS, updaters=[Ema(0.9, STEPS)], callbacks=[SignalAt(4, signal.SIGTERM)])
    stored = read_checkpoint(tmp_path / "cut" / LAST)["trivium"]["updaters"]["ema"]["average"]
    again = Ema(0.9, STEPS)
    train(tmp_path / "cut", STEPS, updaters=[again], resume=tmp_path / "cut" / LAST)
    assert stored.keys() == whole.average.keys() == again.average.keys()
    for name, value in whole.average.items():
        assert torch.equal(again.average[name], value)
        assert not torch.equal(stored[name], value) or name.endswith("logit_bias")
    one, other = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("wrong", [{"momentum": 1.1}, {"momentum": 0.9, "final": -0.1}, {"momentum": 0.9, "steps": 0}])
def test_impossible_averages_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="moving average"):
        Ema(**{"steps": 5, **wrong})
