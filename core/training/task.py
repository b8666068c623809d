"""What is learned: a task encodes batches and turns what is encoded into a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from core.objectives.exchange import Exchange
from core.training.optimiser import decay_groups
from core.types import Batch, Encoded, LossTerms


class Task(nn.Module, ABC):
    """A model with its loss; a :class:`core.training.step.Step` decides in which pieces it is called."""

    @abstractmethod
    def encode(self, batch: Batch, share: float) -> Encoded:
        """Encodes a (micro-)batch.

        Args:
            batch: images and texts of this rank, or a part of them.
            share: what part of the *global* batch this is; terms that need no other sample are multiplied by it.
        """

    @abstractmethod
    def loss(self, encoded: Encoded, exchange: Exchange) -> LossTerms:
        """The share of this rank in the loss of the global batch; the terms of ``encoded`` are not added here."""

    @abstractmethod
    def exported(self) -> nn.Module:
        """The module whose weights a finished run keeps as ``model.safetensors``."""

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser; the usual exclusions from weight decay."""
        return decay_groups(self, weight_decay)

    def after_step(self) -> None:
        """Called after every optimiser step, for constraints on parameters."""
