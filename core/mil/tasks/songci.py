"""SongCi's second stage: the text of a diagnosis looks for itself among the prototypes of a bag and its findings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from core.mil.aggregators.prototypes import PrototypeCounts, Prototypes
from core.mil.gated_fusion import GatedFusion, masked_softmax
from core.mil.tasks.alignment import Attribution, TextTask
from core.mil.tasks.task import evaluating
from core.objectives.exchange import Exchange
from core.training.alignment import aligned
from core.types import Encoded, LossTerms, Targets, UserError

if TYPE_CHECKING:
    from core.mil.aggregator import Aggregator
    from core.mil.bags import PackedBags
    from core.mil.data import BagBatch
    from core.models.dual_encoder import DualEncoder
    from core.objectives.objective import Objective

TEXTS = 256  # asked at a time: a product of bags, texts and tokens is in memory


@dataclass(frozen=True)
class Keys:
    """What a diagnosis can look at in B bags: their prototypes, then the words of their findings."""

    vectors: Tensor  # [B, K, D] unit, K = M prototypes + L words; zero where absent
    present: Tensor  # [B, K] bool
    counts: PrototypeCounts  # which tiles the prototypes stand for
    most: int  # M


class SongCi(TextTask):
    """Gated fusion of prototypes and findings, asked by diagnoses (Nat Commun 16:6773, 2025; names as published).

    A bag is its (prototype, count) tokens x (:class:`core.mil.aggregators.prototypes.PrototypeTokens`); the words of
    its findings come from the text tower. :class:`core.mil.gated_fusion.GatedFusion` lets both look at each other; the
    map of :class:`core.mil.aggregators.prototypes.Prototypes` and a linear head bring every fused token to a unit
    vector k_u of the text space. A diagnosis with the unit embedding t gets the answer ``z = sum_u a_u k_u`` with
    ``a = softmax_u(s t k_u)``, and fits the bag by ``cos(t, z)``. Loss: 0.5 times the objective on these cosines plus
    the mean of ``2 - 2 cos`` over a bag's own captions.

    What was chosen where the paper leaves it open, or its published code goes wrong:

    * Nothing is padded into a softmax and nothing is cut off: absent tokens have weight 0 (the code adds a zero
      "prototype 1024" and drops what is beyond 128). s is learned, from 1/0.07 (without it a softmax of cosines is
      nearly uniform).
    * Every pair of the batch is a bag asked by a text. The published loss compares texts with answers to each bag's
      *own* text; tokens that every bag has can then spell out any text, and an answer that copies its question has no
      loss. In use every diagnosis is asked, so it is here.
    * Which pairs are positive is in the targets: bags of the same diagnosis are no negatives of each other, and several
      diagnoses of one bag are all its positives (``data.captions.per_image``), not one drawn at random.
    * Words are keys too, so that findings can speak for a diagnosis; the text tower is trained unless ``train_text`` is
      false (the paper's is a frozen PLIP). Findings are cut where the tower's context ends.
    * Inputs get no noise here (prototypes are noised where they are learned).

    Until its gates open, a bag without findings is exactly :class:`Prototypes` with t for its query and a head behind.

    Args:
        aggregator: Prototypes.
        model: see :class:`core.mil.tasks.alignment.TextTask`; an open_clip text tower.
        objective: see there.
        fusion: makes the fusion from ``width`` and ``text_width``.
        train_text: see there.
        objective_weight: of the objective.
        pull_weight: of ``2 - 2 cos``.

    Raises:
        UserError: another aggregator.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        model: DualEncoder,
        objective: Objective,
        fusion: Callable[..., GatedFusion],
        train_text: bool = True,
        objective_weight: float = 0.5,
        pull_weight: float = 1.0,
    ) -> None:
        if not isinstance(aggregator, Prototypes):
            raise UserError(
                f"songci needs prototypes and has {type(aggregator).__name__}",
                "aggregator",
                "use aggregator=prototypes (and bags.standardise=false)",
            )
        super().__init__(aggregator, model, objective, train_text)
        self.fusion = fusion(width=aggregator.in_features, text_width=model.text_tower.word_width)
        self.objective_weight, self.pull_weight = objective_weight, pull_weight
        aggregator.query.requires_grad_(False)  # diagnoses ask in its place

    def encode(self, batch: BagBatch, share: float) -> Encoded:  # type: ignore[override]
        keys = self.keys(batch.bags, batch.context)
        # ragged, as one tensor, because micro-batches differ in their longest bag
        lengths = keys.present.sum(dim=1).to(keys.vectors.dtype)
        embeddings = {"keys": keys.vectors[keys.present], "lengths": lengths, "texts": self.captions(batch)}
        return Encoded(embeddings, {}, batch.targets)

    def loss(self, encoded: Encoded, exchange: Exchange) -> LossTerms:
        targets: Targets = encoded.targets
        keys, lengths, texts = (encoded.embeddings[name] for name in ("keys", "lengths", "texts"))
        columns = targets.column_splits
        asked = exchange.gather(texts, [stop - start for start, stop in pairwise(columns)])
        cosines = answered(*padded(keys, [int(length) for length in lengths.tolist()]), asked, self._sharpness())
        # objectives multiply images with texts: rows of cosines with columns of the identity are these cosines
        mine = slice(columns[exchange.rank], columns[exchange.rank + 1])
        single = torch.eye(len(asked), dtype=cosines.dtype, device=cosines.device)[mine]
        terms = aligned(self.model, self.objective, cosines, single, targets, exchange)
        rows = slice(targets.row_splits[exchange.rank], targets.row_splits[exchange.rank + 1])
        own = targets.row_owner[rows, None] == targets.column_owner
        pull = (2 - 2 * cosines)[own].sum() * (self.pull_weight / max(len(asked), 1))  # each caption has one bag
        aim = self.objective_weight * terms.loss
        return LossTerms(aim + pull, {**terms.parts, "pull": pull.detach()})

    def cosines(self, bags: PackedBags, texts: Tensor, context: Tensor | None = None) -> Tensor:
        keys = self.keys(bags, context)
        parts = torch.split(texts.to(keys.vectors), TEXTS)
        return torch.cat([answered(keys.vectors, keys.present, part, self._sharpness()) for part in parts], dim=1)

    def attribution(self, bags: PackedBags, texts: Tensor, context: Tensor | None = None) -> Attribution:
        """See :meth:`core.mil.tasks.alignment.TextTask.attribution`.

        A token u adds ``a_u (t k_u) / |z|`` and weighs ``a_u``; the tiles of a prototype share both equally. It is told
        where a token stands; with open gates it has seen the others.
        """
        with evaluating(self), torch.no_grad():
            keys = self.keys(bags, context)
            weights, added = shares(keys.vectors, keys.present, texts.to(keys.vectors), self._sharpness())  # [B, C, K]
            there = keys.present[:, : keys.most]
            tiles, mine = (
                (part[..., : keys.most].transpose(1, 2)[there] / keys.counts.count[:, None])[keys.counts.pair]
                for part in (added, weights)
            )
            words = added[..., keys.most :].transpose(1, 2)
        return Attribution(*(part.float().cpu().numpy() for part in (tiles, words, mine)))

    def keys(self, bags: PackedBags, context: Tensor | None = None) -> Keys:
        """Fused tokens and words of bags in the text space."""
        aggregator = cast(Prototypes, self.aggregator)
        tokens, counts = aggregator.tokens(bags)
        tokens, there = padded(tokens, counts.offsets.diff().tolist())
        if context is None:
            words = tokens.new_zeros(len(bags), 0, self.model.text_tower.word_width)
            said = there[:, :0]
        else:
            words, said = self.model.text_tower.words(context.to(tokens.device))
        fused, spoken = self.fusion(tokens, there, words.to(tokens.dtype), said)
        values = aggregator.values(torch.cat([fused, spoken.to(fused.dtype)], dim=1))
        present = torch.cat([there, said], dim=1)
        with torch.autocast(values.device.type, enabled=False):
            vectors = F.normalize(self.head(values.to(self.head.weight.dtype)), dim=-1)
        return Keys(vectors * present[..., None], present, counts, tokens.shape[1])

    def outcome(self, scores: Tensor) -> Tensor:
        raise UserError(
            "a bag of songci has no prediction of its own: what it is depends on the diagnosis that is asked",
            "bag_task",
            "evaluate its ranking, or use bag_task=alignment",
        )

    def _sharpness(self) -> Tensor:
        return cast(Prototypes, self.aggregator).scale()


def padded(rows: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Ragged rows [sum(lengths), E] as a rectangle [B, M, E] with zeros, and where it is filled [B, M] bool."""
    rectangle = pad_sequence(list(torch.split(rows, lengths)), batch_first=True)
    place = torch.arange(rectangle.shape[1], device=rows.device)
    return rectangle, place < torch.tensor(lengths, device=rows.device)[:, None]


def answered(vectors: Tensor, present: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """``cos(t, z)`` of every bag and text, with ``z = sum_u softmax_u(s t k_u) k_u``, [B, C].

    Args:
        vectors: [B, K, D] unit k_u.
        present: [B, K] bool.
        texts: [C, D] unit t.
        scale: s.
    """
    return shares(vectors, present, texts, scale)[1].sum(dim=2)


def shares(vectors: Tensor, present: Tensor, texts: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The weight a_u of each k_u, and what it adds to ``cos(t, z)``: ``a_u (t k_u) / |z|``; both [B, C, K]."""
    with torch.autocast(vectors.device.type, enabled=False):
        products = texts.to(vectors.dtype) @ vectors.transpose(1, 2)  # [B, C, K]
        attention = masked_softmax(scale * products, present[:, None])
        length = (attention @ vectors).norm(dim=2, keepdim=True).clamp(min=1e-6)
        return attention, attention * products / length
