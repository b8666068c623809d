"""Pooling of bags that are larger than memory: tiles in chunks, computed again in the backward, nothing approximated.

What a head keeps for its backward is then the features themselves and one score a tile; activations exist for one chunk
at a time. A pack that fits into one chunk takes no detour at all. With dropout the same masks are drawn again in the
backward. How heads use it:

* weighted sums (mean, ABMIL, CLAM, DSMIL's second stream): :func:`pool_in_chunks`;
* heads that pick tiles (max, top-k, DSMIL's critical tile, CLAM's instance term): scores by :func:`map_in_chunks` under
  ``torch.no_grad()``, then the picked rows of the features once more with gradient: exact, as no other tile has one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from core.mil.segments import at_least_float32, segment_max, segment_pool, segment_softmax, segment_sum

CHUNK = 65_536  # tiles; one activation of width 512 is then 128 MiB, and few slides need the second computation


def map_in_chunks(function: Callable[[Tensor], Tensor], features: Tensor, chunk: int = CHUNK) -> Tensor:
    """``function(features)`` for a function that treats every tile alone, [T, D] -> [T, ...], with bounded memory."""
    if len(features) <= chunk:
        return function(features)
    return torch.cat([_again(function, part) for part in torch.split(features, chunk)])


def pool_in_chunks(
    instances: Callable[[Tensor], tuple[Tensor, Tensor]], features: Tensor, offsets: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Attention pooling ``sum_i softmax(score)_i value_i`` of every bag with bounded memory.

    Each chunk gives, for each bag it meets, the maximum m of the scores, ``sum exp(score - m)`` and
    ``sum exp(score - m) value``; these are joined as in Milakov and Gimelshein 2018 (arXiv 1805.02867, section 3.1).
    The maxima cancel out, so no gradient goes through them.

    Args:
        instances: the part of a head that treats every tile alone: features [t, D] -> scores [t, C], values [t, E].
        features: [T, D].
        offsets: [B + 1] int64; chunks may cross bags.
        chunk: tiles at a time.

    Returns:
        pooled [B, C, E] and scores [T, C] (half precision widened), both with gradient;
        :func:`core.mil.segments.segment_softmax` of the scores is the attention.
    """
    if len(features) <= chunk:
        scores, values = instances(features)
        scores = at_least_float32(scores)
        return segment_pool(segment_softmax(scores, offsets), values, offsets), scores

    def reduce(part: Tensor, local: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scores, values = instances(part)
        scores = at_least_float32(scores)
        top = segment_max(scores.detach(), local)  # [b, C] of the bags this chunk meets
        lengths = local.diff().to(scores.device)
        shares = (scores - top.repeat_interleave(lengths, dim=0, output_size=len(part))).exp()
        return scores, top, segment_sum(shares, local), segment_pool(shares, values, local)

    met, results = [], []
    for index, part in enumerate(torch.split(features, chunk)):
        start, stop = index * chunk, index * chunk + len(part)
        inside = torch.arange(len(offsets) - 1)[(offsets[:-1] < stop) & (offsets[1:] > start)]
        local = offsets[int(inside[0]) : int(inside[-1]) + 2].clamp(start, stop) - start
        met.append(inside)
        results.append(_again(reduce, part, local))
    scores, tops, totals, sums = (torch.cat(column) for column in zip(*results, strict=True))
    # the parts of a bag come one after the other: they are a pack again, of a few rows
    counts = torch.cat(met).bincount(minlength=len(offsets) - 1)
    parts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    top = segment_max(tops, parts).repeat_interleave(counts.to(tops.device), dim=0, output_size=len(tops))
    shares = (tops - top).exp()
    pooled = segment_sum(sums * shares[..., None], parts) / segment_sum(totals * shares, parts)[..., None]
    return pooled.to(sums.dtype), scores


def _again(function: Callable[..., Any], part: Tensor, *others: Tensor) -> Any:
    """Calls a function of a chunk so that its backward computes it once more instead of remembering it."""
    if torch.is_grad_enabled():
        return checkpoint(function, part, *others, use_reentrant=False)
    return function(part, *others)
