"""Zero-shot classification: the class whose prompt ensemble is nearest to the image."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.evaluation.classification import classification
from core.evaluation.cohort import Classes, Cohort, Controls
from core.evaluation.prompts import Prompts, prompt_spread
from core.evaluation.subject import Subject
from core.types import Evaluation


class ZeroShot:
    """The classes' prompts asked of the test pictures, as ``zero_shot``."""

    def __call__(self, subject: Subject, controls: Controls, /) -> list[Evaluation]:
        test = subject.test.labelled()
        if subject.classes is None or not len(test.rows):
            return []
        prompts, cohort, scale = subject.prompts, subject.cohort(test.rows), subject.model.scale
        weights = prompts.weights()
        return [zero_shot(test.embeddings, weights, test.labels, subject.classes, cohort, controls, scale, prompts)]


def zero_shot(
    embeddings: npt.ArrayLike,
    weights: npt.ArrayLike,
    labels: npt.ArrayLike,
    classes: Classes,
    cohort: Cohort,
    controls: Controls | None = None,
    scale: float = 100.0,
    prompts: Prompts | None = None,
    name: str = "zero_shot",
) -> Evaluation:
    """Softmax over scaled cosines with the class weights (Radford et al. 2021, section 3.1).

    Args:
        embeddings: [N, D] unit image vectors.
        weights: [C, D] unit class vectors, in the order of ``classes.names``.
        labels: [N] int class.
        controls: e.g. ``{"resnet18": as_control(evaluation)}``.
        scale: the model's logit scale (not its logarithm); it sharpens probabilities and moves no prediction.
        prompts: what the weights were made of; the texts and the spread over prompt sets are kept in the details.

    Warning:
        A zero-shot figure depends on its prompts: compare runs with the same prompts alone, and read the spread.
    """
    images = np.asarray(embeddings, dtype=np.float32)
    details = {}
    if prompts is not None:
        details = {"prompts": prompts.by_class(), "prompt_spread": prompt_spread(prompts, images, labels)}
    probabilities = softmax(scale * (images @ np.asarray(weights, dtype=np.float32).T))
    return classification(name, probabilities, labels, classes, cohort, controls, details)


def softmax(logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Probabilities over the last axis, in float64."""
    shifted = np.asarray(logits, dtype=np.float64)
    powers = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
