"""Image-text alignment: a dual encoder and any objective on its embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.models.dual_encoder import DualEncoder
from core.objectives.exchange import Exchange
from core.objectives.objective import Objective
from core.training.task import Task
from core.types import Batch, Encoded, LossTerms, Targets


class AlignmentTask(Task):
    """Aligns images and captions; the objective says what a pair should be worth.

    The temperature starts at the objective's value unless the model's weights brought a trained one.
    """

    def __init__(self, model: DualEncoder, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        start_temperature(model, objective)

    def encode(self, batch: Batch, share: float) -> Encoded:
        embeddings = {"images": self.model.encode_images(batch.images), "texts": self.model.encode_texts(batch.tokens)}
        return Encoded(embeddings, {}, batch.targets)

    def loss(self, encoded: Encoded, exchange: Exchange) -> LossTerms:
        images, texts = encoded.embeddings["images"], encoded.embeddings["texts"]
        return aligned(self.model, self.objective, images, texts, encoded.targets, exchange)

    def exported(self) -> nn.Module:
        return self.model

    def after_step(self) -> None:
        self.model.clamp()


def start_temperature(model: DualEncoder, objective: Objective) -> None:
    """Starts the model's scale and bias at the objective's values, unless its weights brought a trained scale."""
    bias = objective.initial_bias if objective.needs_bias else None
    if not model.temperature_loaded:
        model.set_temperature(objective.initial_scale, bias)
    elif objective.needs_bias and model.logit_bias is None:
        model.set_temperature(model.scale, bias)


def aligned(
    model: DualEncoder, objective: Objective, images: Tensor, texts: Tensor, targets: Targets, exchange: Exchange
) -> LossTerms:
    """The objective on a rank's embeddings [b, D] and [c, D], at the model's temperature."""
    # bf16 cosines times 100 would be rounded to steps of 0.4
    with torch.autocast(images.device.type, enabled=False):
        scale = model.logit_scale.exp()
        terms: LossTerms = objective(images, texts, targets, scale, model.logit_bias, exchange)
    return terms
