"""Nystrom attention over one sequence: linear in its length, through a few landmarks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NystromAttention(nn.Module):
    """softmax(Q L^T) pinv(softmax(P L^T)) softmax(P K^T) V plus a depthwise convolution of V along the sequence.

    Xiong et al. 2021, arXiv 2102.03902, eq. 13 to 15; P and L are the m landmarks of Q and K, means over m runs of the
    sequence, and all products are scaled by 1/sqrt(d). Both long softmaxes go through torch's fused attention, from the
    right to the left, so that no n x m matrix is ever kept.

    Departures from the implementation that TransMIL was published with. A sequence that m does not divide is cut into
    runs that differ by one in length, where the published code puts zero tokens in front, which take part in every
    softmax and in the first landmark; a sequence no longer than m is attended exactly, softmax(Q K^T) V, which is what
    a landmark for each token stands for (S pinv(S) S = S) and needs no inverse. The start of the iterative
    pseudo-inverse is scaled for every head alone and not by the largest head (and sequence) of the batch.

    Args:
        dim: width of a token.
        heads: H, a divisor of ``dim``.
        landmarks: m.
        kernel: length of the convolution, odd.
        dropout: after the last projection.
    """

    def __init__(self, dim: int, heads: int, landmarks: int, kernel: int = 33, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.landmarks = heads, landmarks
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.convolution = nn.Conv2d(heads, heads, (kernel, 1), padding=(kernel // 2, 0), groups=heads, bias=False)
        self.to_out, self.dropout = nn.Linear(dim, dim), nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """[n, dim] -> [n, dim]."""
        q, k, v = self._split(tokens)
        if len(tokens) <= self.landmarks:
            attended = F.scaled_dot_product_attention(q, k, v)
        else:
            few, inverse = self._landmarks(q, k)
            middle = inverse @ F.scaled_dot_product_attention(few[0], k, v)  # [1, H, m, d]
            attended = F.scaled_dot_product_attention(q, few[1], middle)
        mixed = attended + self.convolution(v)
        result: Tensor = self.dropout(self.to_out(mixed[0].transpose(0, 1).flatten(1)))
        return result

    def first(self, tokens: Tensor) -> Tensor:
        """``forward(tokens)[0]`` without the other rows, [dim]."""
        q, k, v = self._split(tokens)
        if len(tokens) <= self.landmarks:
            attended = F.scaled_dot_product_attention(q[:, :, :1], k, v)
        else:
            few, inverse = self._landmarks(q, k)
            row = _softmax(q[:, :, :1], few[1]) @ inverse  # [1, H, 1, m]
            attended = row @ F.scaled_dot_product_attention(few[0], k, v)
        near = v[:, :, : self.convolution.kernel_size[0] // 2 + 1]  # all that the convolution sees there
        mixed = attended + self.convolution(near)[:, :, :1]
        result: Tensor = self.dropout(self.to_out(mixed.flatten()))
        return result

    @torch.no_grad()
    def attribution(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What every token adds to ``first`` (dropout aside), and how much attention it gets there.

        The pseudo-inverse may make attention negative, so its absolute values, meaned over heads, are given.

        Returns:
            [n, dim], which with the bias of the last projection sum to ``first``, and [n].
        """
        q, k, v = self._split(tokens)
        if len(tokens) <= self.landmarks:
            attention = _softmax(q[:, :, :1], k)[0, :, 0]  # [H, n]
        else:
            few, inverse = self._landmarks(q, k)
            row = _softmax(q[:, :, :1], few[1]) @ inverse
            # one head at a time, since this is the one place that holds an m x n matrix
            attention = torch.cat([row[0, h] @ _softmax(few[0][0, h], k[0, h]) for h in range(self.heads)])
        factor = attention.clone()
        kernel = self.convolution.weight[:, 0, self.convolution.kernel_size[0] // 2 :, 0]  # [H, 17] on tokens 0 to 16
        near = min(kernel.shape[1], len(tokens))
        factor[:, :near] += kernel[:, :near]
        added = (factor[..., None] * v[0]).transpose(0, 1).flatten(1) @ self.to_out.weight.T
        return added, attention.abs().mean(0)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [1, H, n, d]."""
        parts = self.to_qkv(tokens).unflatten(1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        q, k, v = parts[:, None].unbind(0)
        return q, k, v

    def _landmarks(self, q: Tensor, k: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """P and L [1, H, m, d], and pinv(softmax(P L^T)) [1, H, m, m]."""
        few = means_of_runs(q, self.landmarks), means_of_runs(k, self.landmarks)
        with torch.autocast(q.device.type, enabled=False):  # the iteration amplifies what half precision rounds off
            p, landmarks = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in few)
            return few, pseudo_inverse(_softmax(p, landmarks))


def means_of_runs(tokens: Tensor, runs: int) -> Tensor:
    """Means over m = ``runs`` consecutive parts of a sequence, [..., n, d] -> [..., m, d] with m <= n.

    The parts' lengths differ by one at most.
    """
    length = tokens.shape[-2]
    run = torch.arange(length, device=tokens.device) * runs // length  # of each token, ascending
    sums = tokens.new_zeros(*tokens.shape[:-2], runs, tokens.shape[-1]).index_add(-2, run, tokens)
    return sums / run.bincount(minlength=runs).to(tokens.dtype)[:, None]


def pseudo_inverse(matrix: Tensor, steps: int = 6) -> Tensor:
    """Moore-Penrose inverse of softmax matrices [..., m, m] by iteration (arXiv 2102.03902, eq. 11; 6 steps there)."""
    start = matrix.abs().sum(-1).amax(-1) * matrix.abs().sum(-2).amax(-1)  # the start must lie in the unit ball
    inverse = matrix.transpose(-1, -2) / start[..., None, None]
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(steps):
        product = matrix @ inverse
        inverse = 0.25 * inverse @ (13 * one - product @ (15 * one - product @ (7 * one - product)))
    return inverse


def _softmax(queries: Tensor, keys: Tensor) -> Tensor:
    scores: Tensor = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
    return scores.softmax(-1)
