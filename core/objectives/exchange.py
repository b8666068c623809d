"""Where the ranks of a run meet inside of an objective: gather, sum and max over the global batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Exchange(Protocol):
    """What an objective may ask of the other ranks.

    Every rank calls the same methods in the same order, in the backward pass as well: an objective must not skip an
    exchange because of what its own share of the batch holds.
    """

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gather(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """Concatenates [b, ...] of all ranks along dimension 0; the gradient is the sum of what every rank sends back.

        Args:
            x: rows of this rank; their number may differ between ranks.
            sizes: number of rows of every rank where it is known (``Targets`` has the splits), which saves an exchange.
        """
        ...

    def sum(self, x: Tensor) -> Tensor:
        """Elementwise sum over ranks; differentiable, its gradient is the sum of the ranks' gradients."""
        ...

    def max(self, x: Tensor) -> Tensor:
        """Elementwise maximum over ranks; detached."""
        ...


class LocalExchange:
    """One rank: every exchange is the identity."""

    rank = 0
    size = 1

    def gather(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        return x

    def sum(self, x: Tensor) -> Tensor:
        return x

    def max(self, x: Tensor) -> Tensor:
        return x.detach()


class ProcessGroupExchange:
    """The ranks of a ``torch.distributed`` process group (gloo or NCCL); None is the default group."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group

    @property
    def rank(self) -> int:
        return dist.get_rank(self.group)

    @property
    def size(self) -> int:
        return dist.get_world_size(self.group)

    def gather(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        if sizes is None:
            counts = torch.zeros(self.size, dtype=torch.int64, device=x.device)
            counts[self.rank] = len(x)
            dist.all_reduce(counts, group=self.group)
            sizes = counts.tolist()
        gathered: Tensor = _Gather.apply(x, tuple(sizes), self.rank, self.group)
        return gathered

    def sum(self, x: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(x, self.group)
        return total

    def max(self, x: Tensor) -> Tensor:
        largest = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.group)
        return largest


class _Gather(torch.autograd.Function):
    """All-gather forward, reduce-scatter (sum) backward; ragged parts travel padded to the longest."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: tuple[int, ...], rank: int, group: dist.ProcessGroup | None) -> Tensor:
        if len(x) != sizes[rank]:
            raise ValueError(f"rank {rank} gathers {len(x)} rows and was said to hold {sizes[rank]}")
        ctx.sizes, ctx.rank, ctx.group = sizes, rank, group
        longest = max(sizes)
        padded = x.new_zeros((longest, *x.shape[1:]))
        padded[: len(x)] = x
        parts = x.new_empty((len(sizes) * longest, *x.shape[1:]))
        dist.all_gather_into_tensor(parts, padded, group=group)
        return torch.cat(
            [part[:size] for part, size in zip(parts.view(len(sizes), longest, *x.shape[1:]), sizes, strict=True)]
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        longest = max(ctx.sizes)
        padded = gradient.new_zeros((len(ctx.sizes), longest, *gradient.shape[1:]))
        for part, piece in zip(padded, torch.split(gradient, ctx.sizes), strict=True):
            part[: len(piece)] = piece
        mine = gradient.new_empty((longest, *gradient.shape[1:]))
        dist.reduce_scatter_tensor(mine, padded.flatten(0, 1), group=ctx.group)
        return mine[: ctx.sizes[ctx.rank]], None, None, None


class _Sum(torch.autograd.Function):
    """All-reduce forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return _all_reduce(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _all_reduce(gradients[0], ctx.group), None


def _all_reduce(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total
