"""The contract of an aggregator: the tiles of every bag in a pack become one vector a bag."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from core.mil.bags import PackedBags
from core.mil.segments import segment_sum
from core.types import UserError


@dataclass(frozen=True)
class BagOutput:
    """What an aggregator says of the bags of a pack. Letters: B bags, T tiles, C columns of weights, E = width."""

    embedding: Tensor  # [B, E]
    weights: Tensor  # [T], or [T, C]: share of each tile in its bag, non-negative, summing to 1 in every bag; detached
    values: Tensor | None = None  # [T, V] what a tile brings, for `contributions`; detached, and None while training
    auxiliary: Mapping[str, Tensor] = field(default_factory=dict)  # scalars to add to the loss: means over the bags


class Aggregator(nn.Module, ABC):
    """Turns a pack of bags into one embedding a bag; a linear head on it belongs to the task.

    :func:`check_aggregator` tests anybody's implementation. A config leaves ``in_features`` (and ``classes``, where an
    aggregator needs it) as null; whoever builds the model fills in the keys that are missing.
    """

    in_features: int  # D, width of the tiles
    width: int  # E, width of the embedding
    order_free: bool = True  # whether the order of tiles in a bag means nothing
    max_tiles: int | None = None  # of one bag; None: any number

    @abstractmethod
    def forward(self, bags: PackedBags, labels: Tensor | None = None) -> BagOutput:
        """Embeds every bag, none seeing its neighbours.

        Args:
            bags: features [T, D] in the dtype of the parameters.
            labels: [B] int64 class of each bag for auxiliary terms, -1 unknown; None where a task has no classes.

        Raises:
            UserError: a bag is beyond what this aggregator can take.
        """

    def require_room(self, ids: Sequence[str], lengths: Sequence[int]) -> None:
        """Refuses bags of more than ``max_tiles``; before training too, since a tested bag is only seen after it.

        Args:
            ids: [N] names of the bags. lengths: [N] their tiles.

        Raises:
            UserError: names the first such bag.
        """
        for bag, tiles in zip(ids, lengths, strict=True):
            if self.max_tiles is not None and tiles > self.max_tiles:
                raise UserError(
                    f"bag '{bag}' has {tiles:,} tiles and {type(self).__name__} takes {self.max_tiles:,}",
                    "aggregator.max_tiles",
                    "raise it where memory allows, use larger tiles, or choose a pooling head: these have no limit",
                )

    def prepare(self, tiles: Tensor, seed: int) -> None:
        """Called once before training with features of training tiles [N, D] drawn by ``seed``, on every rank alike."""

    def after_step(self) -> None:
        """Called after every optimiser step, for constraints on parameters."""

    def contributions(self, output: BagOutput, head_weight: Tensor) -> Tensor:
        """Signed contribution of each tile to each logit of a linear head on the embedding.

        For weighted sums, ``weights * values @ head``: over a bag it sums to the logits without the head's bias.

        Args:
            output: of a forward in eval mode.
            head_weight: [K, E].

        Returns:
            [T, K].
        """
        values = tile_values(output)
        columns = output.weights.reshape(len(values), -1)  # [T, C]
        heads = head_weight.reshape(len(head_weight), columns.shape[1], -1).unbind(1)  # C of [K, V]
        parts = [columns[:, c, None] * (values @ head.T) for c, head in enumerate(heads)]
        return torch.stack(parts).sum(0)


def tile_values(output: BagOutput) -> Tensor:
    """``output.values``, which only a forward in eval mode has."""
    if output.values is None:
        raise ValueError("contributions need the output of a forward in eval mode")
    return output.values


def tile_shares(mass: Tensor, bags: PackedBags) -> Tensor:
    """Non-negative numbers of tiles as shares of their bag's sum, [T]; a bag of zeros is shared evenly."""
    mass = mass + torch.finfo(mass.dtype).tiny
    return mass / segment_sum(mass, bags.offsets)[bags.owner]


def tile_layers(in_features: int, hidden: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear, ReLU and dropout for every width in ``hidden``; with none, tiles stay as they are."""
    layers: list[nn.Module] = []
    for narrow, wide in pairwise((in_features, *hidden)):
        layers += [nn.Linear(narrow, wide), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


# --------------------------------------------------------------------------------------------------------------------
# The contract as a function


def check_aggregator(
    aggregator: Aggregator,
    classes: int = 2,
    lengths: Sequence[int] = (1, 9, 2, 40, 17),
    seed: int = 0,
    tolerance: float = 1e-6,
) -> None:
    """Holds an aggregator to :class:`Aggregator`: call ``check_aggregator(MyAggregator(16))`` in a test of your own.

    On random bags in float64: shapes; weights that are shares; a pack equals its bags one by one, auxiliary terms
    included; no bag sees its neighbours; the order of tiles means nothing where ``order_free``; a finite gradient other
    than zero by every parameter.

    Args:
        aggregator: the one to test; a copy is used.
        classes: labels are drawn from 0 to ``classes - 1``.
        lengths: tiles of each bag; a bag of one tile must be among them.
        seed: of the bags.
        tolerance: norm-relative.

    Raises:
        UserError: names the clause that is broken.
    """
    model, name = copy.deepcopy(aggregator).double().eval(), type(aggregator).__name__
    random = torch.Generator().manual_seed(seed)
    bags = random_bags(lengths, aggregator.in_features, random)
    labels = torch.arange(len(bags)) % classes
    output = model(bags, labels)
    _check_shapes(output, bags, model, name)

    alone = [model(bags.part(b, b + 1), labels[b : b + 1]) for b in range(len(bags))]
    _same(output, _joined(alone), tolerance, f"{name} on a pack differs from its bags one by one")

    for b, (start, stop) in enumerate(pairwise(bags.offsets.tolist())):
        features = 100 * torch.randn(bags.features.shape, generator=random, dtype=torch.float64)
        features[start:stop] = bags.features[start:stop]
        found = model(PackedBags(features, bags.coordinates, bags.offsets, bags.ids))
        bag = BagOutput(found.embedding[b : b + 1], found.weights[start:stop])
        wanted = BagOutput(alone[b].embedding, alone[b].weights)
        _same(bag, wanted, tolerance, f"in {name} a bag sees its neighbours")

    if model.order_free:
        parts = [start + torch.randperm(stop - start, generator=random) for start, stop in pairwise(bags.offsets)]
        order = torch.cat(parts)
        found = model(PackedBags(bags.features[order], bags.coordinates[order], bags.offsets, bags.ids), labels)
        wanted = BagOutput(output.embedding, output.weights[order], None, output.auxiliary)
        _same(found, wanted, tolerance, f"{name} depends on the order of tiles")

    direction = torch.randn(output.embedding.shape, generator=random, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    if parameters:
        loss = (output.embedding * direction).sum() + sum(output.auxiliary.values())
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for key, gradient in zip(parameters, gradients, strict=True):
            if gradient is None or not torch.isfinite(gradient).all() or not gradient.any():
                raise UserError(f"{name} gives its parameter {key} no gradient, or one that is not finite")


def random_bags(lengths: Sequence[int], width: int, random: torch.Generator) -> PackedBags:
    """Normal features in float64 at random places, ``lengths`` tiles a bag."""
    total = sum(lengths)
    features = torch.randn(total, width, generator=random, dtype=torch.float64)
    coordinates = 1000 * torch.rand(total, 2, generator=random)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return PackedBags(features, coordinates, offsets, tuple(f"bag{b}" for b in range(len(lengths))))


def _check_shapes(output: BagOutput, bags: PackedBags, model: Aggregator, name: str) -> None:
    shape = (len(bags), model.width)
    if output.embedding.shape != shape or not torch.isfinite(output.embedding).all():
        raise UserError(f"{name} gives embeddings {list(output.embedding.shape)}; expected finite {list(shape)}")
    if len(output.weights) != len(bags.features):
        raise UserError(f"{name} gives {len(output.weights)} weights for {len(bags.features)} tiles")
    sums = segment_sum(output.weights, bags.offsets)
    if not (output.weights >= 0).all() or not torch.allclose(sums, torch.ones_like(sums)):
        raise UserError(f"the weights of {name} are no shares", todo="non-negative, summing to 1 over a bag")
    if any(term.shape != () for term in output.auxiliary.values()):
        raise UserError(f"an auxiliary term of {name} is no scalar", todo="give its mean over the bags")


def _joined(alone: Sequence[BagOutput]) -> BagOutput:
    auxiliary = {key: torch.stack([one.auxiliary[key] for one in alone]).mean() for key in alone[0].auxiliary}
    embedding = torch.cat([one.embedding for one in alone])
    return BagOutput(embedding, torch.cat([one.weights for one in alone]), None, auxiliary)


def _same(found: BagOutput, wanted: BagOutput, tolerance: float, broken: str) -> None:
    pairs = {"embedding": (found.embedding, wanted.embedding), "weights": (found.weights, wanted.weights)}
    pairs |= {key: (found.auxiliary[key], term) for key, term in wanted.auxiliary.items()}
    for which, (one, other) in pairs.items():
        error = float((one - other).detach().norm() / other.detach().norm().clamp(min=1e-30))
        if not error <= tolerance:
            raise UserError(f"{broken}: {which} by {error:.1e} of its norm")
