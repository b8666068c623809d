"""Supervised classification by the same module: the plain control, and linear heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.models.normalise import Normalise
from core.models.towers import timm_backbone
from core.objectives.exchange import Exchange
from core.training.optimiser import AdamW, CosineWarmup
from core.training.task import Task
from core.types import Batch, Encoded, Geometry, LossTerms, UserError


class ClassificationTask(Task):
    """A timm backbone from scratch with a linear head; mean cross-entropy over the batch, label -1 counts as zero.

    Args:
        classes: number of classes.
        geometry: size and normalisation of the images.
        backbone: a timm name.
        model_args: passed to timm.
    """

    def __init__(
        self, classes: int, geometry: Geometry, backbone: str = "resnet18", model_args: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.normalise = Normalise(geometry)
        built, width = timm_backbone(backbone, geometry.size_px, model_args)
        self.backbone = built.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster convolutions
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits: uint8 [b, 3, H, W] -> float [b, classes]."""
        pixels = self.normalise(images).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.backbone(pixels))
        return logits

    def encode(self, batch: Batch, share: float) -> Encoded:
        if batch.labels is None:
            raise UserError("the batch has no labels", "data.label", "name the label column")
        logits = self(batch.images)
        total = F.cross_entropy(logits.float(), batch.labels, ignore_index=-1, reduction="sum")
        # a sample of unknown class still counts in the mean: no exchange is needed to know how many there are
        return Encoded({}, {"cross_entropy": total / len(batch.labels) * share})

    def loss(self, encoded: Encoded, exchange: Exchange) -> LossTerms:
        """Nothing couples the samples."""
        return LossTerms(self.head.weight.new_zeros(()))

    def exported(self) -> nn.Module:
        return self


class Classifier:
    """A trained classification task, for prediction."""

    def __init__(self, task: ClassificationTask) -> None:
        self.task = task

    @torch.no_grad()
    def logits(self, images: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """uint8 [N, 3, H, W], N > 0 -> float32 [N, classes]."""
        parts = [
            self.task(torch.from_numpy(images[start : start + batch_size]))
            for start in range(0, len(images), batch_size)
        ]
        values: np.ndarray = torch.cat(parts).float().numpy()
        return values

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Most probable class, int64 [N]."""
        classes: np.ndarray = self.logits(images).argmax(axis=1)
        return classes


class ArrayData:
    """Labelled images in memory: shuffled passes, flipped and turned by a function of (seed, step)."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, batch_size: int, seed: int, augment: bool) -> None:
        self.images, self.labels = images, labels
        self.batch_size, self.seed, self.augment = min(batch_size, len(images)), seed, augment

    def batch(self, step: int) -> Batch:
        """The batch of one optimiser step."""
        passes, position = divmod(step, len(self.images) // self.batch_size)
        order = np.random.default_rng([self.seed, 0, passes]).permutation(len(self.images))
        rows = order[position * self.batch_size : (position + 1) * self.batch_size]
        images = torch.from_numpy(self.images[rows])
        if self.augment:  # one of the eight symmetries of the square, the same for the whole batch
            turns, flip = divmod(int(np.random.default_rng([self.seed, 1, step]).integers(8)), 2)
            images = torch.rot90(images.flip(3) if flip else images, turns, (2, 3)).contiguous()
        empty = torch.zeros((0, 0), dtype=torch.int64)
        ids = tuple(str(row) for row in rows)
        return Batch(step, images, empty, empty.reshape(0), None, ids, torch.from_numpy(self.labels[rows]))

    def train_batches(self, start_step: int, stop_step: int, rank: int, size: int) -> Iterator[Batch]:
        """Batches of one process; every rank of a larger run would repeat the same."""
        return (self.batch(step) for step in range(start_step, stop_step))


def fit_classifier(
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    steps: int,
    seed: int,
    batch_size: int = 32,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    backbone: str = "resnet18",
    model_args: Mapping[str, Any] | None = None,
    augment: bool = True,
) -> Classifier:
    """Trains a plain supervised control from scratch, through the same module as everything else; writes nothing.

    Args:
        images: uint8 [N, 3, S, S]; normalised by their own mean and standard deviation per channel.
        labels: int [N], -1 unknown.
        steps: optimiser steps.
        seed: of the initial weights, the order and the augmentation.

    Raises:
        UserError: no labelled image.
    """
    from core.training.fit import TrainerOptions, fit
    from core.training.step import Plain

    known = labels >= 0
    images, labels = np.ascontiguousarray(images[known]), labels[known].astype(np.int64)
    if not len(images):
        raise UserError("no image has a label", "data.label", "a supervised control needs labels")
    mean, std = images.mean(axis=(0, 2, 3)) / 255, images.std(axis=(0, 2, 3)) / 255 + 1e-3
    geometry = Geometry(images.shape[-1], None, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        task = ClassificationTask(classes, geometry, backbone, model_args)
        fit(
            task,
            ArrayData(images, labels, batch_size, seed, augment),
            None,
            step=Plain(),
            optimiser=AdamW(lr, weight_decay, (0.9, 0.999)),
            schedule=CosineWarmup(steps, max(1, steps // 10)),
            seed=seed,
            trainer=TrainerOptions(log_every=steps),
        )
    return Classifier(task)
