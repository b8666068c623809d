"""Where the ranks of a run meet inside of an objective: gather, sum and max over the global batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
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


class CollectiveExchange(ABC):
    """Several ranks: the differentiable exchanges, from three collectives on plain tensors."""

    @property
    @abstractmethod
    def rank(self) -> int: ...

    @property
    @abstractmethod
    def size(self) -> int: ...

    @abstractmethod
    def all_gather(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """[sizes[rank], ...] of every rank -> [sum(sizes), ...]."""

    @abstractmethod
    def reduce_scatter(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """[sum(sizes), ...] of every rank -> this rank's [sizes[rank], ...] of their sum."""

    @abstractmethod
    def all_reduce(self, x: Tensor, largest: bool = False) -> Tensor:
        """Elementwise sum over ranks, or maximum; a new tensor."""

    def gather(self, x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        if sizes is None:
            counts = torch.zeros(self.size, dtype=torch.int64, device=x.device)
            counts[self.rank] = len(x)
            sizes = self.all_reduce(counts).tolist()
        if len(x) != sizes[self.rank]:
            raise ValueError(f"rank {self.rank} gathers {len(x)} rows and was said to hold {sizes[self.rank]}")
        gathered: Tensor = _Gather.apply(x, self, tuple(sizes))
        return gathered

    def sum(self, x: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(x, self)
        return total

    def max(self, x: Tensor) -> Tensor:
        return self.all_reduce(x.detach(), largest=True)


class ProcessGroupExchange(CollectiveExchange):
    """The ranks of a ``torch.distributed`` process group (gloo or NCCL); None is the default group.

    Ragged parts travel padded to the longest, which both back ends take.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group

    @property
    def rank(self) -> int:
        return dist.get_rank(self.group)

    @property
    def size(self) -> int:
        return dist.get_world_size(self.group)

    def all_gather(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        padded = x.new_zeros((max(sizes), *x.shape[1:]))
        padded[: len(x)] = x
        parts = x.new_empty((len(sizes) * max(sizes), *x.shape[1:]))
        dist.all_gather_into_tensor(parts, padded, group=self.group)
        parts = parts.view(len(sizes), *padded.shape)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def reduce_scatter(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        padded = x.new_zeros((len(sizes), max(sizes), *x.shape[1:]))
        for part, piece in zip(padded, torch.split(x, list(sizes)), strict=True):
            part[: len(piece)] = piece
        mine = torch.empty_like(padded[0])
        dist.reduce_scatter_tensor(mine, padded.flatten(0, 1), group=self.group)
        return mine[: sizes[self.rank]]

    def all_reduce(self, x: Tensor, largest: bool = False) -> Tensor:
        result = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group=self.group)
        return result


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, exchange: CollectiveExchange, sizes: tuple[int, ...]) -> Tensor:
        ctx.exchange, ctx.sizes = exchange, sizes
        return exchange.all_gather(x, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.exchange.reduce_scatter(gradients[0], ctx.sizes), None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, exchange: CollectiveExchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.all_reduce(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.exchange.all_reduce(gradients[0]), None
