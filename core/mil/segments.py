"""Reductions over the bags of a pack, without padding.

``values`` are the tiles of all bags, [T, ...]; ``offsets`` [B + 1] int64 cut them into bags of at least one tile each
(:class:`core.mil.bags.PackedBags`). Every bag is reduced by the same call that would reduce it alone, so a pack equals
its bags one by one to the last bit; one pass of the autograd engine serves all bags. First derivatives only.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def segment_sum(values: Tensor, offsets: Tensor) -> Tensor:
    """Sum over the tiles of each bag, [T, ...] -> [B, ...]."""
    result: Tensor = _Sum.apply(values, _bounds(offsets))
    return result


def segment_mean(values: Tensor, offsets: Tensor) -> Tensor:
    """Mean over the tiles of each bag, [T, ...] -> [B, ...]."""
    lengths = offsets.diff().to(values.device, values.dtype)
    return segment_sum(values, offsets) / lengths.reshape(-1, *[1] * (values.ndim - 1))


def segment_argmax(values: Tensor, offsets: Tensor) -> Tensor:
    """Row (of the pack) of the largest value in each bag, [T, ...] -> [B, ...] int64."""
    with torch.no_grad():
        return torch.stack([values[a:b].argmax(dim=0) + a for a, b in _pairs(offsets)])


def segment_max(values: Tensor, offsets: Tensor) -> Tensor:
    """Maximum over the tiles of each bag, [T, ...] -> [B, ...]; all gradient goes to :func:`segment_argmax`."""
    return values.gather(0, segment_argmax(values, offsets))


def segment_softmax(values: Tensor, offsets: Tensor) -> Tensor:
    """Softmax over the tiles of each bag and each column apart, [T, ...] -> [T, ...]: sums to 1 in every bag.

    Half precision comes back as float32, as under autocast: a share of 1e-5 of many is no number in bfloat16.
    """
    result: Tensor = _Softmax.apply(at_least_float32(values), _bounds(offsets))
    return result


def segment_pool(weights: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
    """Weighted sum over the tiles of each bag, as one matrix product a bag: no [T, C, E] product in memory.

    Args:
        weights: [T], or [T, C] for C poolings at once.
        values: [T, E].
        offsets: [B + 1] int64.

    Returns:
        [B, E], or [B, C, E].
    """
    columns = weights[:, None] if weights.ndim == 1 else weights
    # weights are float32 beside half-precision values; a product of both needs one type
    pooled: Tensor = _Pool.apply(columns.to(values.dtype), values, _bounds(offsets))
    return pooled[:, 0] if weights.ndim == 1 else pooled


def segment_topk(values: Tensor, offsets: Tensor, k: int | Tensor, largest: bool = True) -> tuple[Tensor, Tensor]:
    """Rows (of the pack) of the k largest (or smallest) values of each bag, best first; a short bag gives all it has.

    Among equal values the first tile wins, on every device. Gather with the rows to get values with gradient.

    Args:
        values: [T] scores.
        offsets: [B + 1] int64.
        k: at least 0, one for all bags or [B] int64; more than a bag has is cut to its length.
        largest: False for the smallest.

    Returns:
        rows [K] int64, and their offsets [B + 1] int64 on the host (bags may be empty here, where k is 0).
    """
    wanted = [k] * (len(offsets) - 1) if isinstance(k, int) else k.tolist()
    with torch.no_grad():
        rows = [
            values[a:b].sort(descending=largest, stable=True).indices[: int(n)] + a
            for (a, b), n in zip(_pairs(offsets), wanted, strict=True)
        ]
    counts = torch.tensor([0, *(len(part) for part in rows)])
    return torch.cat(rows), counts.cumsum(0)


def at_least_float32(values: Tensor) -> Tensor:
    """The same values, half precision widened."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _bounds(offsets: Tensor) -> tuple[int, ...]:
    return tuple(offsets.tolist())


def _pairs(offsets: Tensor) -> list[tuple[int, int]]:
    return list(pairwise(_bounds(offsets)))


def _spread(values: Tensor, bounds: tuple[int, ...]) -> Tensor:
    """The row of its bag for every tile, [B, ...] -> [T, ...]."""
    lengths = torch.tensor(bounds).diff().to(values.device)
    return values.repeat_interleave(lengths, dim=0, output_size=bounds[-1])


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, bounds: tuple[int, ...]) -> Tensor:
        ctx.bounds = bounds
        return torch.stack([values[a:b].sum(dim=0) for a, b in pairwise(bounds)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _spread(grad, ctx.bounds), None


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, bounds: tuple[int, ...]) -> Tensor:
        shares = torch.empty_like(values)
        for a, b in pairwise(bounds):
            torch.softmax(values[a:b], dim=0, out=shares[a:b])
        ctx.save_for_backward(shares)
        ctx.bounds = bounds
        return shares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (shares,) = ctx.saved_tensors
        result = shares * grad
        for a, b in pairwise(ctx.bounds):
            part = result[a:b]
            part.addcmul_(shares[a:b], part.sum(dim=0, keepdim=True), value=-1)
        return result, None


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, bounds: tuple[int, ...]) -> Tensor:
        pooled = values.new_empty(len(bounds) - 1, weights.shape[1], values.shape[1])
        for row, (a, b) in zip(pooled, pairwise(bounds), strict=True):
            torch.mm(weights[a:b].T, values[a:b], out=row)
        ctx.save_for_backward(weights, values)
        ctx.bounds = bounds
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        weights, values = ctx.saved_tensors
        to_weights = torch.empty_like(weights) if ctx.needs_input_grad[0] else None
        to_values = torch.empty_like(values) if ctx.needs_input_grad[1] else None
        for row, (a, b) in zip(grad, pairwise(ctx.bounds), strict=True):
            if to_weights is not None:
                torch.mm(values[a:b], row.T, out=to_weights[a:b])
            if to_values is not None:
                torch.mm(weights[a:b], row, out=to_values[a:b])
        return to_weights, to_values, None
