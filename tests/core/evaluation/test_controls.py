"""ResNet-18 from scratch is trained once a split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.evaluation.cohort import Classes, Cohort
from core.evaluation.controls import ResNet18, resize, resnet18

BUDGET = ResNet18(steps=30, batch_size=8, size_px=32)


def _images(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Dark and bright pictures with noise."""
    labels = np.arange(n) % 2
    noise = np.random.default_rng(n).integers(60, size=(n, 3, 40, 40))
    return (noise + 150 * labels[:, None, None, None]).astype(np.uint8), labels


def test_it_learns_and_is_recalled_until_anything_it_depends_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path))
    train, y_train = _images(32)
    test, y_test = _images(10)
    classes = Classes(("dark", "bright"), np.array([16, 16]))
    cohort = Cohort([f"t{k}" for k in range(10)], [f"p{k}" for k in range(10)])
    ids = [f"i{k}" for k in range(32)]

    def control(budget: ResNet18 = BUDGET, labels: np.ndarray = y_train) -> tuple[float, bool]:
        made = resnet18(train, labels, ids, test, y_test, classes, cohort, budget)
        return made.figures[0].value, made.details["from_cache"]

    assert control() == (1.0, False)
    assert control() == (1.0, True)
    short = replace(BUDGET, steps=1)
    assert control(short)[1] is False
    unknown = y_train.copy()
    unknown[0] = -1
    assert control(short, unknown)[1] is False
    assert control(short)[1] is True
    for path in (tmp_path / "resnet18").glob("*.npy"):
        path.write_bytes(path.read_bytes()[:40])
    assert control(short)[1] is False  # a damaged file is made again


def test_resizing_keeps_flat_pictures_flat() -> None:
    flat = np.full((1, 3, 40, 30), 77, np.uint8)
    assert (resize(flat, 16) == 77).all()
    assert resize(flat, 16).shape == (1, 3, 16, 16)
