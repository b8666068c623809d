"""The diagonal cases are open_clip's losses."""

from __future__ import annotations

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch.nn import functional as F

from core.objectives.check import evaluate
from core.objectives.example import Example
from core.objectives.sigmoid import SigmoidContrastive
from core.objectives.softmax import SoftmaxContrastive
from core.types import Targets
from tests.core.objectives.cases import differentiate, errors


def pairs(count: int, dtype: torch.dtype) -> Example:
    """Images with one caption each."""
    random = torch.Generator().manual_seed(0)
    images = F.normalize(torch.randn(count, 32, generator=random, dtype=dtype), dim=1)
    texts = F.normalize(images + 0.2 * torch.randn(count, 32, generator=random, dtype=dtype), dim=1)
    number, none = torch.arange(count), torch.zeros(0, dtype=torch.int64)
    indptr = torch.zeros(count + 1, dtype=torch.int64)
    splits = (0, count)
    targets = Targets(number, number, number, number, number, number, indptr, none, none.to(torch.int8), splits, splits)
    return Example(images, texts, targets)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"])
@pytest.mark.parametrize("scale", [14.0, 100.0])
class TestDiagonal:
    def test_softmax_is_clip_loss(self, scale: float, dtype: torch.dtype, bound: float) -> None:
        batch, theirs = pairs(50, dtype), ClipLoss()
        wanted = differentiate(lambda i, t, _, s, b: theirs(i, t, s), batch, scale, None, dtype)
        found = evaluate(SoftmaxContrastive(tile=16), batch, scale)
        assert max(errors(found, wanted).values()) <= bound

    def test_sigmoid_is_siglip_loss(self, scale: float, dtype: torch.dtype, bound: float) -> None:
        batch, theirs = pairs(50, dtype), SigLipLoss()
        wanted = differentiate(lambda i, t, _, s, b: theirs(i, t, s, b), batch, scale, -10.0, dtype)
        found = evaluate(SigmoidContrastive(tile=16), batch, scale)
        assert max(errors(found, wanted).values()) <= bound
