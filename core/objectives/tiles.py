"""The one sweep over the pairs of a batch: logits in tiles, made twice and never kept.

S = scale * images @ texts.T + bias is [B, C] and would be the largest tensor of a step. A :class:`Kernel` reduces it
tile by tile in the forward pass; in the backward pass every tile is made again and the kernel says dL/dS on it, from
which the gradients of images, texts, scale and bias follow. Memory is a few tiles plus what is linear in B.

Only texts are gathered. A rank sweeps its own rows against all columns, so what belongs to a row is complete on its
rank, and what belongs to a column is merged over ranks by the kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.objectives.exchange import Exchange
from core.types import Policy, Targets, UserError

TILE = 512  # rows of a tile
ASPECT = 4  # columns per row of a tile: 4 MiB of float32 by default, and a few such buffers at a time


@dataclass(frozen=True)
class Tile:
    """Logits of one tile and the pairs in it that are not plain negatives."""

    rows: slice  # among the b rows of this rank
    columns: slice  # among the C columns of the global batch
    logits: Tensor  # [r, c]; the kernel may write into it
    i: Tensor  # [k] int64: row in the tile of each pair that a policy does not call 0
    j: Tensor  # [k] int64: column in the tile
    value: Tensor  # [k] what the policy says of the pair; NaN: left out


class Kernel(ABC):
    """What is computed from the tiles."""

    @abstractmethod
    def reduce(self, tiles: Iterator[Tile], rows: int, columns: int, like: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Forward: (outputs, tensors to keep for the backward pass), all linear in rows and columns."""

    @abstractmethod
    def gradient(self, saved: list[Tensor], gradients: list[Tensor]) -> Callable[[Tile], Tensor]:
        """Backward: from the gradients of the outputs to a function that gives dL/dS [r, c] of a tile."""


@dataclass(frozen=True)
class _Plan:
    """The pairs a rank sweeps."""

    targets: Targets
    policy: Policy
    first_row: int  # global index of row 0 of this rank
    tile: int

    def tiles(self, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None) -> Iterator[Tile]:
        wide = ASPECT * self.tile
        for top, left in product(range(0, len(images), self.tile), range(0, len(texts), wide)):
            rows = slice(top, min(top + self.tile, len(images)))
            columns = slice(left, min(left + wide, len(texts)))
            logits = (images[rows] * scale) @ texts[columns].T
            if bias is not None:
                logits += bias
            global_rows = slice(self.first_row + rows.start, self.first_row + rows.stop)
            yield Tile(rows, columns, logits, *self.targets.exceptions(global_rows, columns, self.policy, logits))


def sweep(
    kernel: Kernel,
    images: Tensor,
    texts: Tensor,
    targets: Targets,
    policy: Policy,
    scale: Tensor,
    bias: Tensor | None,
    exchange: Exchange,
    tile: int = TILE,
) -> tuple[Tensor, ...]:
    """Outputs of a kernel over all pairs of this rank's rows with all columns; differentiable once.

    Half precision is lifted to float32 (a bf16 cosine times 100 has steps of 0.4), float64 stays float64, and autocast
    is off, in both passes.

    Args:
        images: [b, D] of this rank. texts: [c, D] of this rank.
        scale, bias: scalars.
        tile: rows of a tile; it has ``ASPECT`` times as many columns.

    Raises:
        UserError: the embeddings are not as many as ``targets`` says this rank holds.
    """
    row_sizes, column_sizes = _sizes(targets.row_splits), _sizes(targets.column_splits)
    held = (len(images), len(texts))
    if held != (row_sizes[exchange.rank], column_sizes[exchange.rank]):
        raise UserError(
            f"rank {exchange.rank} holds {held[0]} images and {held[1]} captions, and its targets are made for "
            f"{row_sizes[exchange.rank]} and {column_sizes[exchange.rank]}"
        )
    dtype = torch.promote_types(torch.promote_types(images.dtype, texts.dtype), torch.float32)
    plan = _Plan(targets, policy, targets.row_splits[exchange.rank], tile)
    with torch.autocast(images.device.type, enabled=False):
        outputs: tuple[Tensor, ...] = _Sweep.apply(
            images.to(dtype),
            exchange.gather(texts.to(dtype), column_sizes),
            scale.to(dtype),
            None if bias is None else bias.to(dtype),
            kernel,
            plan,
        )
    return outputs


def _sizes(splits: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in pairwise(splits))


class _Sweep(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None, kernel: Kernel, plan: _Plan
    ) -> tuple[Tensor, ...]:
        tiles = plan.tiles(images, texts, scale, bias)
        outputs, saved = kernel.reduce(tiles, len(images), len(texts), images)
        ctx.kernel, ctx.plan = kernel, plan
        ctx.save_for_backward(images, texts, scale, bias, *saved)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        images, texts, scale, bias, *saved = ctx.saved_tensors
        with torch.autocast(images.device.type, enabled=False):
            of_tile = ctx.kernel.gradient(saved, list(gradients))
            d_images = torch.zeros_like(images)
            d_texts = torch.zeros_like(texts) if ctx.needs_input_grad[1] else None
            d_bias = None if bias is None else torch.zeros_like(bias)
            for tile in ctx.plan.tiles(images, texts, scale, bias):
                d_logits = of_tile(tile)
                d_images[tile.rows].addmm_(d_logits, texts[tile.columns])
                if d_texts is not None:
                    d_texts[tile.columns].addmm_(d_logits.T, images[tile.rows])
                if d_bias is not None:
                    d_bias += d_logits.sum()
            d_scale = (images * d_images).sum().reshape(scale.shape)  # sum_ij dS_ij cos_ij, free once dS @ T is there
            return d_images * scale, None if d_texts is None else d_texts * scale, d_scale, d_bias, None, None
