"""SongCi's slide: a set of prototypes, each with the number of tiles that look like it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.mil.aggregator import Aggregator, BagOutput
from core.mil.bags import PackedBags
from core.mil.chunked import map_in_chunks
from core.mil.segments import segment_pool, segment_softmax
from core.types import UserError

Learning = Callable[[Tensor, Tensor, int], Tensor]  # training tiles [N, D], first prototypes [P, D], seed -> [P, D]
MOST = 10_000  # a count above it is taken for it, as published: the slowest wave of its encoding has this period


@dataclass(frozen=True)
class PrototypeCounts:
    """Which prototypes the bags of a pack hold, ascending in a bag, and how often; U pairs over all bags."""

    prototype: Tensor  # [U] int64
    count: Tensor  # [U] int64 tiles, at least one
    offsets: Tensor  # [B + 1] int64 on the CPU: bag b has the pairs offsets[b]:offsets[b + 1]
    pair: Tensor  # [T] int64 pair of each tile


class PrototypeTokens(nn.Module):
    """One token for each (prototype, count): the unit prototype plus an MLP of the count's sinusoids.

    Args:
        in_features: D.
        prototypes: P.
    """

    prototypes: Tensor  # [P, D] unit vectors: a buffer, saved with the weights and not trained

    def __init__(self, in_features: int, prototypes: int) -> None:
        super().__init__()
        self.register_buffer("prototypes", F.normalize(torch.randn(prototypes, in_features), dim=1))
        self.count = nn.Sequential(nn.Linear(in_features, in_features), nn.SiLU(), nn.Linear(in_features, in_features))

    def forward(self, bags: PackedBags) -> tuple[Tensor, PrototypeCounts]:
        """Tokens [U, D] of a pack, and what they stand for."""
        # in half precision a tile would go to a neighbour of its prototype
        with torch.no_grad(), torch.autocast(bags.features.device.type, enabled=False):
            nearest = map_in_chunks(lambda tiles: (tiles @ self.prototypes.T).argmax(1), bags.features, chunk=4_096)
        counts = count_prototypes(nearest, bags, len(self.prototypes))
        waves = sinusoids(counts.count.clamp(max=MOST), self.prototypes.shape[1]).to(self.prototypes.dtype)
        return self.prototypes[counts.prototype] + self.count(waves), counts


class Prototypes(Aggregator):
    """SongCi's prototype head (Nat Commun 16:6773, 2025; no arXiv number; names as in the published code).

    A tile belongs to the prototype of largest cosine; a bag is its prototypes u with their tile counts n_u. A token is
    x_u = p_u + MLP(sinusoids(n_u)), goes through y_u = A x_u + C GELU(B x_u) and is normalised; a query q attends over
    the tokens of a bag, z = sum_u a_u y_u / |y_u| with a = softmax_u(s cos(q, y_u)). In SongCi q is the text of a
    diagnosis, and tokens first meet the findings' text in tanh-gated blocks that start as the identity; here, without
    text, q is learned. Fusion with text starts from :class:`PrototypeTokens`.

    Departures. Bags are packed: the published code pads to 128 tokens with a zero prototype that takes attention, and
    cuts off the prototypes beyond 128. The softmax has a learned scale s (from 1/0.07, at most 100); without one it is
    nearly uniform over cosines. Prototypes are those of ``prepare`` (k-means of training tiles on the sphere, and from
    there what ``learning`` makes of them) or of a state dict (an encoder trained with its own); they stay as they are,
    as in the paper's second stage. No noise is added to them.

    A tile's weight is a_u / n_u; z is the sum of weights times tokens, so contributions sum to the logits.

    Args:
        in_features: D.
        prototypes: P; 1,024 in the paper, of 3.1 million tiles.
        width: E, width of y.
        learning: SongCi's first stage, :class:`core.mil.prototype_learning.PrototypeLearning`; None: k-means alone.
    """

    def __init__(
        self, in_features: int, prototypes: int = 256, width: int = 512, learning: Learning | None = None
    ) -> None:
        super().__init__()
        self.in_features, self.width, self.learning = in_features, width, learning
        self.tokens = PrototypeTokens(in_features, prototypes)
        self.linear = nn.Linear(in_features, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(in_features, 4 * in_features, bias=False),
            nn.GELU(),
            nn.Linear(4 * in_features, width, bias=False),
        )
        self.query = nn.Parameter(F.normalize(torch.randn(width), dim=0))
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, bags: PackedBags, labels: Tensor | None = None) -> BagOutput:
        """See :meth:`core.mil.aggregator.Aggregator.forward`."""
        tokens, counts = self.tokens(bags)
        values = self.values(tokens)  # [U, E]
        attention = segment_softmax(self.scale() * (values @ F.normalize(self.query, dim=0)), counts.offsets)  # [U]
        embedding = segment_pool(attention, values, counts.offsets)
        weights = (attention.detach() / counts.count)[counts.pair]
        return BagOutput(embedding, weights, None if self.training else values.detach()[counts.pair])

    def values(self, tokens: Tensor) -> Tensor:
        """y / |y| of tokens, [..., D] -> [..., E]."""
        return F.normalize(self.linear(tokens) + self.mlp(tokens), dim=-1)

    def scale(self) -> Tensor:
        """s, by which cosines are multiplied before the softmax."""
        return self.logit_scale.exp()

    def after_step(self) -> None:
        with torch.no_grad():
            self.logit_scale.clamp_(max=math.log(100))

    def prepare(self, tiles: Tensor, seed: int) -> None:
        """Prototypes from training tiles [N, D]: k-means on the unit sphere, then ``learning``.

        Raises:
            UserError: there are fewer tiles than prototypes.
        """
        found = spherical_means(tiles, len(self.tokens.prototypes), seed)
        self.tokens.prototypes.copy_(found if self.learning is None else self.learning(tiles, found, seed))


def count_prototypes(nearest: Tensor, bags: PackedBags, prototypes: int) -> PrototypeCounts:
    """The distinct (bag, prototype) pairs of a pack.

    Args:
        nearest: [T] int64 prototype of each tile, below ``prototypes``.
        bags: where tiles belong.
        prototypes: P.
    """
    keys, pair, count = torch.unique(bags.owner * prototypes + nearest, return_inverse=True, return_counts=True)
    held = (keys // prototypes).bincount(minlength=len(bags)).cpu()  # pairs of each bag
    return PrototypeCounts(keys % prototypes, count, F.pad(held.cumsum(0), (1, 0)), pair)


def sinusoids(counts: Tensor, width: int) -> Tensor:
    """cos and sin of counts [U] at ``width // 2`` frequencies from 1 down to nearly 1/10,000, [U, width] float64."""
    half = width // 2
    powers = torch.arange(half, device=counts.device, dtype=torch.float64) / half
    angles = counts[:, None] * torch.exp(-math.log(MOST) * powers)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width % 2))


def spherical_means(tiles: Tensor, count: int, seed: int) -> Tensor:
    """Unit centres [count, D] of unit vectors, by k-means with the centres normalised at the end.

    Raises:
        UserError: fewer tiles than centres.
    """
    from sklearn.cluster import MiniBatchKMeans

    if len(tiles) < count:
        raise UserError(
            f"{len(tiles)} training tiles cannot make {count} prototypes",
            "aggregator.prototypes",
            f"use at most {len(tiles)}, or more slides",
        )
    unit = F.normalize(tiles.float(), dim=1).cpu().numpy()
    means = MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=max(1_024, 4 * count)).fit(unit)
    return F.normalize(torch.from_numpy(means.cluster_centers_).to(tiles), dim=1)
