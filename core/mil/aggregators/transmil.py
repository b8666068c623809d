"""TransMIL: self-attention between the tiles of a bag."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.mil.aggregator import Aggregator, BagOutput, tile_shares, tile_values
from core.mil.bags import PackedBags
from core.mil.chunked import map_in_chunks
from core.mil.nystrom import NystromAttention


class TransMIL(Aggregator):
    """Two layers of Nystrom attention with a convolutional position encoding between them (Shao et al. 2021, arXiv
    2106.00908, algorithms 1 and 2).

    h = ReLU(W x); the tiles of a bag, in the order of its file, are repeated from the first on until they fill a
    square, a class token comes in front, and x + attention(LayerNorm(x)), PPEG over the square, the same attention
    again and a LayerNorm of the class token follow. Bags go one by one and exact: nothing is padded, cut or shared
    between them.

    The order of the file is the geometry, as in the paper; coordinates are not used. Departures: those of
    :class:`core.mil.nystrom.NystromAttention`; of the second layer the class token's row alone is computed, since
    nothing else of it is used.

    A tile's weight is its share in the (absolute) attention of the class token in the second layer, copies that fill
    the square counted in. Its contribution is what it adds to the class token there, through the last LayerNorm at the
    standard deviation that the token has; what came to the token in the first layer belongs to no tile, so
    contributions do not sum to the logits.

    Args:
        in_features: D.
        width: of all tokens.
        heads: of both layers, a divisor of ``width``.
        landmarks: of both layers.
        dropout: after each attention.
        max_tiles: a larger bag is refused by name. A step on 50,000 tiles of 1,024 features takes 2.3 GiB over the
            model, measured at the default widths on a CPU.

    Raises:
        UserError: a bag is larger than ``max_tiles``.
    """

    order_free = False

    def __init__(
        self,
        in_features: int,
        width: int = 512,
        heads: int = 8,
        landmarks: int = 256,
        dropout: float = 0.1,
        max_tiles: int = 50_000,
    ) -> None:
        super().__init__()
        self.in_features, self.width, self.max_tiles = in_features, width, max_tiles
        self.project = nn.Sequential(nn.Linear(in_features, width), nn.ReLU())
        self.token = nn.Parameter(torch.randn(1, width))
        self.norm1, self.norm2, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.attention1, self.attention2 = (
            NystromAttention(width, heads, landmarks, dropout=dropout) for _ in range(2)
        )
        self.positions = PPEG(width)

    def forward(self, bags: PackedBags, labels: Tensor | None = None) -> BagOutput:
        """See :meth:`core.mil.aggregator.Aggregator.forward`."""
        self.require_room(bags.ids, bags.lengths.tolist())
        hidden = map_in_chunks(self.project, bags.features)
        results = [self._bag(hidden[a:b]) for a, b in pairwise(bags.offsets.tolist())]
        embedding, added, attention = zip(*results, strict=True)
        values = None if self.training else torch.cat(added)
        return BagOutput(torch.stack(embedding), tile_shares(torch.cat(attention), bags), values)

    def contributions(self, output: BagOutput, head_weight: Tensor) -> Tensor:
        """Values are already what a tile adds to the embedding."""
        return tile_values(output) @ head_weight.T

    def _bag(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One bag h [n, E]: embedding [E], what its tiles add to that [n, E], attention [n]."""
        rows = square(len(hidden), hidden.device)
        tokens = torch.cat([self.token, hidden[rows]])
        tokens = tokens + self.attention1(self.norm1(tokens))
        tokens = torch.cat([tokens[:1], self.positions(tokens[1:])])
        inputs = self.norm2(tokens)
        last = tokens[0] + self.attention2.first(inputs)

        attended, attention = self.attention2.attribution(inputs)
        with torch.no_grad():
            scale = self.norm.weight / (last.var(unbiased=False) + self.norm.eps).sqrt()
            added = (attended - attended.mean(1, keepdim=True)) * scale
            added = added.new_zeros(hidden.shape).index_add(0, rows, added[1:])
            shares = attention.new_zeros(len(hidden)).index_add(0, rows, attention[1:])
        return self.norm(last), added, shares


class PPEG(nn.Module):
    """Pyramid position encoding: tokens on a square plus their depthwise 7 x 7, 5 x 5 and 3 x 3 convolutions.

    The three kernels are added up before one convolution, which is the same and keeps one result instead of three; one
    bias stands for three.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seven, self.five, self.three = (
            nn.Conv2d(width, width, size, padding=size // 2, groups=width, bias=False) for size in (7, 5, 3)
        )
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, tokens: Tensor) -> Tensor:
        """[s * s, E] in row order -> [s * s, E]."""
        side = round(len(tokens) ** 0.5)
        weight = self.seven.weight + F.pad(self.five.weight, [1] * 4) + F.pad(self.three.weight, [2] * 4)
        plane = tokens.T.reshape(1, -1, side, side)
        moved = F.conv2d(plane, weight, self.bias, padding=3, groups=plane.shape[1])
        return tokens + moved.flatten(2)[0].T


def square(tiles: int, device: torch.device | None = None) -> Tensor:
    """Rows that fill the smallest square with ``tiles`` tiles: all of them, then the first ones again."""
    side = 1 + math.isqrt(tiles - 1)
    return torch.arange(side * side, device=device) % tiles
