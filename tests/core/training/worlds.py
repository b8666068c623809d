"""Small worlds to train in: pairs of pictures and captions that belong together, towers that cost microseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from core.models.dual_encoder import DualEncoder
from core.models.towers import ImageTower, TextTower
from core.types import Batch, Geometry, Targets

SIZE, CONTEXT, WORDS, WIDTH = 8, 6, 50, 16


def diagonal_targets(row_splits: Sequence[int]) -> Targets:
    """Every image has one caption, and nothing is related to anything else."""
    count = row_splits[-1]
    line, empty = torch.arange(count), torch.zeros(0, dtype=torch.int64)
    none = torch.zeros(2, dtype=torch.int64)
    sets = torch.zeros(count, dtype=torch.int64)
    splits = tuple(row_splits)
    return Targets(line, line, line, line, sets, sets, none, empty, empty.to(torch.int8), splits, splits)


class PairWorld:
    """``count`` fixed pairs; the batch of a step is a function of (seed, step), cut into contiguous parts for ranks."""

    def __init__(self, count: int, batch_size: int, seed: int, size: int = SIZE, tokens: Tensor | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
        drawn = torch.randint(1, WORDS, (count, CONTEXT), generator=generator)
        self.tokens = drawn if tokens is None else tokens
        self.batch_size, self.seed = batch_size, seed

    def batch(self, step: int, rank: int = 0, size: int = 1) -> Batch:
        rows = np.random.default_rng([self.seed, step]).permutation(len(self.images))[: self.batch_size]
        splits = [len(rows) * part // size for part in range(size + 1)]
        mine = rows[splits[rank] : splits[rank + 1]]
        owner = torch.arange(len(mine))
        ids = tuple(f"pair{row}" for row in mine)
        return Batch(step, self.images[mine], self.tokens[mine], owner, diagonal_targets(splits), ids)

    def train_batches(self, start_step: int, stop_step: int, rank: int, size: int) -> Iterator[Batch]:
        return (self.batch(step, rank, size) for step in range(start_step, stop_step))


class MeanOfWords(nn.Module):
    """Mean of token embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(WORDS, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        words: Tensor = self.token_embedding(tokens)
        return words.mean(dim=1)


class NoTokenizer:
    context_length = CONTEXT

    def __call__(self, texts: Sequence[str]) -> Tensor:
        raise NotImplementedError("this world speaks in token ids")


def tiny_pair(seed: int, dropout: float) -> DualEncoder:
    """Linear towers; dropout makes training depend on the state of the random generator."""
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, WIDTH), nn.Dropout(dropout), nn.GELU())
    image = ImageTower(backbone, nn.Linear(WIDTH, WIDTH, bias=False), WIDTH, channels_last=False)
    text = TextTower(MeanOfWords(), nn.Linear(WIDTH, WIDTH, bias=False), CONTEXT)
    return DualEncoder(image, text, WIDTH, Geometry(SIZE, None), NoTokenizer())
