"""The one Lightning module: joins a task, a step, updaters and an optimiser. Manual optimisation, one path."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from core.objectives.exchange import Exchange, LocalExchange, ProcessGroupExchange
from core.training.optimiser import AdamW, CosineWarmup
from core.training.step import Step
from core.training.task import Task
from core.training.updater import Updater
from core.types import Batch, UserError


def seed_torch(seed: int, step: int, rank: int) -> None:
    """Seeds torch's generators for one step of one rank, so that dropout does not depend on what ran before."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]
    number = int(state >> np.uint64(1))
    if torch.accelerator.is_available():
        torch.manual_seed(number)
    else:  # where there is none to be seeded, torch.manual_seed spends a millisecond on writing down who called it
        torch.default_generator.manual_seed(number)


class TrainingModule(pl.LightningModule):
    """Takes one optimiser step a batch.

    Everything that a step depends on is the checkpoint and the batch, and the batch is a function of (seed, step):
    that makes a resumed run equal to an undisturbed one.
    """

    def __init__(
        self,
        task: Task,
        step: Step,
        optimiser: AdamW,
        schedule: CosineWarmup,
        seed: int,
        updaters: Sequence[Updater] = (),
        log_every: int = 10,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.task = task
        self.gradient_step, self.optimiser, self.schedule, self.seed = step, optimiser, schedule, seed
        self.updaters, self.log_every = tuple(updaters), log_every
        self.exchange: Exchange = LocalExchange()
        self.stop_wanted = False  # a signal reached this rank
        self.stopping = False  # a signal reached some rank: all ranks agree at the same step
        self.latest: dict[str, float] = {}  # means since the last log point, for whoever shows progress
        self._sums: dict[str, float] = {}
        self._count = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimiser.build(self.task)

    def on_fit_start(self) -> None:
        self.exchange = ProcessGroupExchange() if self.trainer.world_size > 1 else LocalExchange()
        self.stop_wanted = self.stopping = False

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        step = self.global_step
        if batch.step != step:
            raise RuntimeError(f"batch of step {batch.step} arrived at step {step}")
        seed_torch(self.seed, step, self.global_rank)
        optimiser: Any = self.optimizers()
        rate = self.optimiser.lr * self.schedule.factor(step)
        for group in optimiser.param_groups:
            group["lr"] = rate
        for updater in self.updaters:
            updater.before_step(self.task, batch, step)
        optimiser.zero_grad(set_to_none=True)
        terms = self.gradient_step.run(self.task, batch, self.exchange, self._backward)
        losses = self._sum_over_ranks({"loss": terms.loss, **terms.parts})
        if not all(np.isfinite(value) for value in losses.values()):
            self._refuse(batch, step, losses)
        optimiser.step()
        self.task.after_step()
        for updater in self.updaters:
            updater.after_step(self.task, step)
        self._log(step, rate, losses)

    def _backward(self, loss: Tensor, sync: bool) -> None:
        """Backward of this rank's share; gradients are exchanged only with ``sync``, on the last call of a step."""
        wrapped: Any = self.trainer.model
        quiet = contextlib.nullcontext() if sync or not hasattr(wrapped, "no_sync") else wrapped.no_sync()
        with quiet:
            # shares sum to the loss of the whole batch, and DDP averages
            self.manual_backward(loss * self.trainer.world_size)

    def _sum_over_ranks(self, shares: dict[str, Tensor]) -> dict[str, float]:
        """Sums the shares, and tells every rank whether a signal reached any; one exchange a step."""
        values = [value.detach().float().reshape(()) for value in shares.values()]
        wanted = torch.tensor(float(self.stop_wanted), device=values[0].device)
        *sums, stop = self.exchange.sum(torch.stack([*values, wanted])).tolist()
        self.stopping = self.stopping or stop > 0
        return dict(zip(shares, sums, strict=True))

    def _refuse(self, batch: Batch, step: int, losses: dict[str, float]) -> None:
        """Names the samples whose embeddings are not finite, or the batch's first ones when all embeddings are."""
        with torch.no_grad():
            encoded = self.task.encode(batch, 1.0)
        broken: set[int] = set()
        for values in encoded.embeddings.values():
            rows = (~torch.isfinite(values.reshape(len(values), -1)).all(dim=1)).nonzero().flatten().cpu()
            if len(values) == len(batch.ids):
                broken |= set(rows.tolist())
            elif batch.owner is not None and len(values) == len(batch.owner):
                broken |= set(batch.owner.cpu()[rows].tolist())
        named = [batch.ids[index] for index in sorted(broken)] or list(batch.ids)
        shown = ", ".join(named[:20]) + (f" and {len(named) - 20} more" if len(named) > 20 else "")
        which = "samples with embeddings that are not finite" if broken else "samples of the batch"
        wrong = ", ".join(f"{name} = {value}" for name, value in losses.items() if not np.isfinite(value))
        cure = "lower optimiser.lr, lengthen the warm-up, set step.clip_norm, or look at these samples"
        raise UserError(f"{wrong} at optimiser step {step}", f"{which}: {shown}", cure)

    def _log(self, step: int, rate: float, losses: dict[str, float]) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        if (step + 1) % self.log_every and step + 1 != self.schedule.steps:
            return
        self.latest = {name: value / self._count for name, value in self._sums.items()} | {"lr": rate}
        for name, parameter in self.task.named_parameters():
            if name.endswith(("logit_scale", "logit_bias")):
                short = name.rpartition(".")[2]
                self.latest[name if short in self.latest else short] = float(parameter.detach())
        self._sums, self._count = {}, 0
        for logger in self.loggers:  # Lightning's loggers write on rank 0 alone
            logger.log_metrics(self.latest, step + 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["trivium"] = {
            "seed": self.seed,
            "sums": dict(self._sums),
            "count": self._count,
            "updaters": {updater.name: updater.state_dict() for updater in self.updaters},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        ours = checkpoint["trivium"]
        if ours["seed"] != self.seed:
            raise UserError(f"the checkpoint was written with seed {ours['seed']} and the run has {self.seed}", "seed",
                            "resume with the seed it began with")  # fmt: skip
        self._sums, self._count = dict(ours["sums"]), int(ours["count"])
        if set(ours["updaters"]) != {updater.name for updater in self.updaters}:
            raise UserError(f"the checkpoint has the updaters {sorted(ours['updaters'])}", "updaters")
        for updater in self.updaters:
            updater.load_state_dict(ours["updaters"][updater.name])
