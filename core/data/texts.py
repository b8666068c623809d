"""Words of a batch: captions in tokens, and what each pair should be; pure functions of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.data.captions import CaptionChooser
from core.data.targets import Relations, make_targets
from core.types import Targets

Tokenize = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class Texts:
    """The captions of samples (rows of a manifest, or bags) that are known by their numbers."""

    captions: CaptionChooser
    relations: Relations
    tokenize: Tokenize

    def draw(self, step: int, samples: np.ndarray) -> tuple[Tensor, Tensor]:
        """Captions of some samples at a step: tokens [c, L], and the place in ``samples`` of each one's owner [c]."""
        texts = [self.captions.choose(step, int(sample)) for sample in samples]
        owner = np.repeat(np.arange(len(samples)), [len(several) for several in texts])
        return self.tokenize([text for several in texts for text in several]), torch.from_numpy(owner)

    def targets(self, samples: np.ndarray, splits: tuple[int, ...]) -> Targets:
        """Targets of a global batch, whose ranks are cut at ``splits`` (W + 1 offsets)."""
        return make_targets(samples, self.captions.counts(samples), self.relations, splits)
