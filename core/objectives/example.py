"""Random batches on which objectives are checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from core.types import Relation, Targets


@dataclass(frozen=True)
class Example:
    """A global batch with everything that may occur: ragged groups, several captions an image, related concept sets."""

    images: Tensor  # [B, D]
    texts: Tensor  # [C, D]
    targets: Targets

    def part(self, rank: int) -> tuple[Tensor, Tensor]:
        """Images and texts that a rank holds."""
        (top, bottom), (left, right) = [
            splits[rank : rank + 2] for splits in (self.targets.row_splits, self.targets.column_splits)
        ]
        return self.images[top:bottom], self.texts[left:right]


def example(seed: int, sizes: Sequence[int], width: int = 16, dtype: torch.dtype = torch.float64) -> Example:
    """A random batch of ``sum(sizes)`` images, ``sizes[r]`` of them on rank r.

    Images have one to three captions; there are about a third as many groups as images (ragged, and on several ranks)
    and as many concept sets, of which the last is empty; sets in a group may differ.
    """
    random = torch.Generator().manual_seed(seed)
    count = sum(sizes)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=dtype)

    captions = torch.randint(1, 4, (count,), generator=random)
    owner = torch.arange(count).repeat_interleave(captions)
    kinds = count // 3 + 1
    group = torch.randint(kinds, (count,), generator=random)
    sets = torch.randint(kinds, (count,), generator=random)
    centre = normal(kinds, width)
    images = F.normalize(centre[group] + 0.8 * normal(count, width), dim=1)
    texts = F.normalize(images[owner] + 0.6 * normal(len(owner), width) / width**0.5, dim=1)
    upper = torch.tensor([Relation.UNRELATED, Relation.ANCESTOR, Relation.SHARED])
    codes = torch.zeros(kinds, kinds, dtype=torch.int8)
    for a in range(kinds - 1):  # the last set is empty: unrelated to everything, itself included
        codes[a, a] = Relation.EQUAL
        for b in range(a):
            code = int(upper[torch.randint(3, (), generator=random)])
            codes[a, b], codes[b, a] = code, Relation.DESCENDANT if code == Relation.ANCESTOR else code
    row, column = codes.nonzero(as_tuple=True)
    indptr = F.pad(torch.bincount(row, minlength=kinds).cumsum(0), (1, 0))
    ends = [0, *accumulate(captions.tolist())]
    row_splits = (0, *accumulate(sizes))
    targets = Targets(
        torch.arange(count),
        owner,
        group,
        group[owner],
        sets,
        sets[owner],
        indptr,
        column,
        codes[row, column],
        row_splits,
        tuple(ends[split] for split in row_splits),
    )
    return Example(images, texts, targets)
