"""The plain supervised control: ResNet-18 from scratch on the same images and split, trained once a split.

What it predicts is kept in the cache folder under a hash of everything it depends on, so that the thirty runs of a
sweep over objectives train it once a split.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.evaluation.classification import classification
from core.evaluation.cohort import Classes, Cohort, Controls
from core.evaluation.subject import Subject
from core.evaluation.zero_shot import softmax
from core.files import atomic_write, cache_dir
from core.types import Evaluation

_VERSION = 2  # raise it when the training of the control changes: cached predictions are then made again


@dataclass(frozen=True)
class ResNet18:
    """The control with what it may spend, which is the key of its cache; as ``resnet18``."""

    steps: int = 150  # optimiser steps
    batch_size: int = 32
    lr: float = 1e-3
    size_px: int = 64  # images are resized to this square, which is what two cores can train in seconds
    seed: int = 0

    def __call__(self, subject: Subject, controls: Controls, /) -> list[Evaluation]:
        test, train = subject.test.labelled(), subject.train
        if subject.classes is None or not len(test.rows):
            return []
        ids = subject.data.manifest.frame["id"].iloc[train.rows].tolist()
        pictures = [np.concatenate([resize(image[None], self.size_px) for image in subject.pictures(rows)])
                    for rows in (train.rows, test.rows)]  # fmt: skip
        labels = train.labels, ids, pictures[1], test.labels
        return [resnet18(pictures[0], *labels, subject.classes, subject.cohort(test.rows), self)]


def resnet18(
    train_images: npt.NDArray[np.uint8],
    train_labels: npt.ArrayLike,
    train_ids: Sequence[str],
    test_images: npt.NDArray[np.uint8],
    test_labels: npt.ArrayLike,
    classes: Classes,
    cohort: Cohort,
    budget: ResNet18 | None = None,
    controls: Controls | None = None,
) -> Evaluation:
    """Trains (or recalls) ResNet-18 from scratch and evaluates it as ``resnet18``.

    Args:
        train_images: [N, 3, H, W] uint8.
        train_labels: [N] int class, -1 unknown (left out).
        train_ids: [N] ids; with those of the cohort they identify the split.
        test_images: [M, 3, H, W] uint8, the items of the cohort.
    """
    chosen = budget or ResNet18()
    known = np.asarray(train_labels, dtype=np.int64) >= 0
    train = resize(train_images[known], chosen.size_px)
    labels = np.asarray(train_labels, dtype=np.int64)[known]
    test = resize(test_images, chosen.size_px)
    ids = [str(i) for i, keep in zip(train_ids, known, strict=True) if keep]
    key = _key(ids, labels, train, cohort.ids, test, classes.names, chosen)
    path = cache_dir() / "resnet18" / f"{key}.npy"
    probabilities = _recall(path, (len(test), len(classes.names)))
    cached = probabilities is not None
    if probabilities is None:
        from core.training.classification import fit_classifier

        model = fit_classifier(
            train,
            labels,
            len(classes.names),
            steps=chosen.steps,
            seed=chosen.seed,
            batch_size=chosen.batch_size,
            lr=chosen.lr,
        )
        probabilities = softmax(model.logits(test))
        with atomic_write(path) as temporary:
            np.save(temporary, probabilities)
    details = {**asdict(chosen), "train_items": len(labels), "from_cache": cached}
    return classification("resnet18", probabilities, test_labels, classes, cohort, controls, details)


def resize(images: npt.NDArray[np.uint8], size_px: int) -> npt.NDArray[np.uint8]:
    """Images [N, 3, H, W] as squares [N, 3, size_px, size_px], averaged over areas when they shrink."""
    from PIL import Image

    if images.shape[-2:] == (size_px, size_px):
        return np.ascontiguousarray(images)
    out = np.empty((len(images), 3, size_px, size_px), dtype=np.uint8)
    for row, image in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        out[row] = np.asarray(picture.resize((size_px, size_px), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    return out


def _recall(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float64] | None:
    """Cached predictions, or None when there are none or the file is damaged (it is then made again)."""
    try:
        stored: npt.NDArray[np.float64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        return None
    return stored if stored.shape == shape else None


def _key(
    train_ids: Sequence[str],
    labels: npt.NDArray[np.int64],
    train: npt.NDArray[np.uint8],
    test_ids: Sequence[str],
    test: npt.NDArray[np.uint8],
    names: Sequence[str],
    budget: ResNet18,
) -> str:
    """Hash of ids, labels, pixels and settings: equal ids over other pixels (another phantom) are another split."""
    digest = hashlib.sha256()
    words = [list(train_ids), list(map(str, test_ids)), labels.tolist(), list(names), asdict(budget), _VERSION]
    digest.update(json.dumps(words).encode())
    digest.update(train.tobytes())
    digest.update(test.tobytes())
    return digest.hexdigest()[:32]
