"""Bags aligned with what is written of them: slide-text alignment by the objectives of tiles."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from core.mil.tasks.task import BagTask, auxiliary, evaluating
from core.models.dual_encoder import DualEncoder
from core.objectives.exchange import Exchange
from core.objectives.objective import Objective
from core.training.alignment import aligned, start_temperature
from core.types import Encoded, LossTerms, UserError

if TYPE_CHECKING:
    from core.mil.aggregator import Aggregator
    from core.mil.bags import PackedBags
    from core.mil.data import BagBatch


@dataclass(frozen=True)
class Attribution:
    """What tiles and words add to the cosine of their bag with each of C texts: signed, summing to it over a bag."""

    tiles: npt.NDArray[np.float32]  # [T, C]
    words: npt.NDArray[np.float32]  # [B, L, C] by their column in the context; 0 where there is no word
    weights: npt.NDArray[np.float32]  # [T, C] share of each tile in its bag; what all lack to 1 is the words'


class TextTask(BagTask):
    """A task that asks bags about texts; the head of :class:`core.mil.tasks.task.BagTask` leads to the text space.

    The loss compares bags: it needs ``step=plain`` or ``step=cached``. Relations between bags and texts are in the
    batch's ``targets``, so that two bags of the same diagnosis are no negatives of each other where the objective's
    policy says so.

    Args:
        aggregator: see there.
        model: gives text tower, tokenizer and temperature. Its image tower is dropped: bags take the place of pictures.
        objective: any of ``core.objectives``.
        train_text: False keeps the text tower as it is, for one that comes with weights.
    """

    def __init__(
        self, aggregator: Aggregator, model: DualEncoder, objective: Objective, train_text: bool = True
    ) -> None:
        super().__init__(aggregator, model.embed_dim, bias=False)
        del model.image_tower
        self.model, self.objective = model, objective
        model.text_tower.requires_grad_(train_text)
        start_temperature(model, objective)

    @abstractmethod
    def cosines(self, bags: PackedBags, texts: Tensor, context: Tensor | None = None) -> Tensor:
        """How well each text fits each bag, [B, C] in [-1, 1].

        Args:
            bags: B of them.
            texts: [C, D] unit embeddings.
            context: [B, L] int64 tokens of what is read together with each bag, for tasks that read.
        """

    def ask(self, bags: PackedBags, texts: Tensor, context: Tensor | None = None) -> npt.NDArray[np.float32]:
        """:meth:`cosines` without gradient and with dropout off."""
        with evaluating(self), torch.no_grad():
            found: npt.NDArray[np.float32] = self.cosines(bags, texts, context).float().cpu().numpy()
        return found

    @abstractmethod
    def attribution(self, bags: PackedBags, texts: Tensor, context: Tensor | None = None) -> Attribution:
        """Where :meth:`cosines` come from, without gradient and with dropout off; arguments as there."""

    def after_step(self) -> None:
        super().after_step()
        self.model.clamp()

    def captions(self, batch: BagBatch) -> Tensor:
        """Unit embeddings [c, D] of a batch's captions.

        Raises:
            UserError: the batch has none.
        """
        if batch.tokens is None:
            raise UserError("the bags come without texts", "bag_task", "give a manifest with a column caption")
        return self.model.encode_texts(batch.tokens).to(self.head.weight.dtype)


class BagAlignment(TextTask):
    """A bag's embedding is its aggregator's, led to the text space and normalised; the objective does the rest.

    On the same embeddings and targets the loss is that of :class:`core.training.alignment.AlignmentTask`. ``predict``
    gives unit vectors [B, D] that texts find; ``contributions`` [T, D] times a text's embedding is what each tile adds
    to its product with the bag, before the bag is normalised.
    """

    def encode(self, batch: BagBatch, share: float) -> Encoded:  # type: ignore[override]
        scores, output = self(batch.bags)
        embeddings = {"images": F.normalize(scores, dim=1), "texts": self.captions(batch)}
        return Encoded(embeddings, auxiliary(output, share), batch.targets)

    def loss(self, encoded: Encoded, exchange: Exchange) -> LossTerms:
        images, texts = encoded.embeddings["images"], encoded.embeddings["texts"]
        return aligned(self.model, self.objective, images, texts, encoded.targets, exchange)

    def outcome(self, scores: Tensor) -> Tensor:
        return F.normalize(scores, dim=1)

    def cosines(self, bags: PackedBags, texts: Tensor, context: Tensor | None = None) -> Tensor:
        embedding = self.outcome(self(bags)[0])
        return embedding @ texts.to(embedding).T

    def attribution(self, bags: PackedBags, texts: Tensor, context: Tensor | None = None) -> Attribution:
        """See :meth:`TextTask.attribution`: the tiles' contributions along each text, over the length of their bag."""
        with evaluating(self), torch.no_grad():
            scores, output = self(bags)
            along = texts.to(self.head.weight) @ self.head.weight  # [C, E]: a text as a head of one score
            length = scores.norm(dim=1).clamp(min=1e-12)[bags.owner, None]
            tiles = self.aggregator.contributions(output, along) / length
            weights = output.weights.reshape(len(tiles), -1).mean(dim=1, keepdim=True).expand(-1, len(texts))
        words = np.zeros((len(bags), 0, len(texts)), np.float32)
        return Attribution(tiles.float().cpu().numpy(), words, weights.float().cpu().numpy())
