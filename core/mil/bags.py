"""Bags of tiles: one slide (or patient) as numpy arrays, and a batch of them as one tensor with offsets.

Nothing is padded or cut: a :class:`PackedBags` is the rows of all bags one after the other, so its memory is the sum of
the bags and not their number times the longest. Alphabet: ``T`` tiles, ``B`` bags, ``D`` feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.types import Unit, UserError


@dataclass(frozen=True)
class Bag:
    """The tiles of one slide, in the order of its file.

    Raises:
        UserError: naming the bag: no tile, wrong shapes or dtypes, values that are not finite, a tile without size.
    """

    id: str
    features: np.ndarray  # [T, D] float16 or float32, finite
    coordinates: np.ndarray  # [T, 2] float32: top left corner (x, y) of each tile from the level-0 origin, in ``unit``
    tile_size: float  # side of a tile, in ``unit``
    unit: Unit
    encoder: str  # name@hash of what made the features

    def __post_init__(self) -> None:
        features, coordinates = self.features, self.coordinates
        if features.ndim != 2 or features.dtype not in (np.float16, np.float32):
            self._refuse(f"has features {list(features.shape)} {features.dtype}; expected [T, D] float16 or float32")
        if not features.size:
            self._refuse("is empty: it has no tile", "leave the slide out, or look why its tissue was not found")
        if coordinates.shape != (len(features), 2) or coordinates.dtype != np.float32:
            self._refuse(
                f"has coordinates {list(coordinates.shape)} {coordinates.dtype}; expected [{len(features)}, 2] float32"
            )
        if not torch.stack(as_tensor(features).aminmax()).isfinite().all():  # 30 times as fast as numpy's isfinite
            broken = ~np.isfinite(features).all(axis=1)
            first = int(np.flatnonzero(broken)[0])
            count = f"{int(broken.sum())} of {len(features)} tiles"
            self._refuse(f"has NaN or infinite features in {count}, first in tile {first}", "embed the slide again")
        if not np.isfinite(coordinates).all() or not (np.isfinite(self.tile_size) and self.tile_size > 0):
            self._refuse(f"has coordinates that are not finite, or a tile size that is no length ({self.tile_size})")

    def __len__(self) -> int:
        return len(self.features)

    def _refuse(self, what: str, todo: str = "") -> None:
        raise UserError(f"bag '{self.id}' {what}", todo=todo)


@dataclass(frozen=True)
class PackedBags:
    """A batch of bags as one tensor; bag b is the rows ``offsets[b]:offsets[b + 1]``.

    ``offsets`` stay on the host wherever the features are: they are the sizes of loops and views, and reading them from
    a GPU would wait for it in every pooling.
    """

    features: Tensor  # [T, D] floating point
    coordinates: Tensor  # [T, 2] float32: top left corners, physical
    offsets: Tensor  # [B + 1] int64 on the CPU, from 0 to T, strictly ascending: a bag has at least one tile
    ids: tuple[str, ...]  # [B]

    @classmethod
    def pack(cls, bags: Sequence[Bag], dtype: torch.dtype = torch.float32) -> PackedBags:
        """Copies bags into one tensor of ``dtype``.

        Raises:
            UserError: no bag at all, or bags of different widths, encoders or units: both sides are named.
        """
        if not bags:
            raise UserError("a pack needs at least one bag")
        for bag in bags[1:]:
            require_alike(bags[0], bag)
        offsets = np.concatenate([[0], np.cumsum([len(bag) for bag in bags])]).astype(np.int64)
        features = torch.empty(int(offsets[-1]), bags[0].features.shape[1], dtype=dtype)
        for bag, start, stop in zip(bags, offsets[:-1], offsets[1:], strict=True):
            features[start:stop] = as_tensor(bag.features)  # converts while it copies: no second float32 bag
        coordinates = torch.from_numpy(np.concatenate([bag.coordinates for bag in bags]))
        return cls(features, coordinates, torch.from_numpy(offsets), tuple(bag.id for bag in bags))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lengths(self) -> Tensor:
        """Tiles of each bag, [B] int64 on the device of the features."""
        return self.offsets.diff().to(self.features.device)

    @cached_property
    def owner(self) -> Tensor:
        """Bag of each tile, [T] int64 ascending, on the device of the features."""
        bags = torch.arange(len(self), device=self.features.device)
        return bags.repeat_interleave(self.lengths, output_size=len(self.features))

    def part(self, first: int, last: int) -> PackedBags:
        """Bags ``first`` to ``last - 1``: views, nothing is copied."""
        offsets = self.offsets[first : last + 1]
        start, stop = int(offsets[0]), int(offsets[-1])
        return PackedBags(
            self.features[start:stop], self.coordinates[start:stop], offsets - start, self.ids[first:last]
        )

    def to(self, device: Any) -> PackedBags:
        """The same bags with features and coordinates on ``device`` (offsets stay on the host)."""
        return PackedBags(self.features.to(device), self.coordinates.to(device), self.offsets, self.ids)


def as_tensor(array: np.ndarray) -> Tensor:
    """The same memory as a tensor; copied only where torch could not hold it (a read-only map of a file)."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def require_alike(first: Bag, other: Bag) -> None:
    """Refuses two bags that one model cannot take together.

    Raises:
        UserError: naming both bags and what differs: feature width, encoder or unit of the coordinates.
    """
    pairs = (
        ("features of width", first.features.shape[1], other.features.shape[1]),
        ("features of the encoder", first.encoder, other.encoder),
        ("coordinates in", first.unit, other.unit),
    )
    for what, one, two in pairs:
        if one != two:
            raise UserError(
                f"bags '{first.id}' and '{other.id}' do not go together: {what} {one} and {two}",
                todo="embed all slides with one encoder, or keep the sets apart",
            )
