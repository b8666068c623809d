"""Class weights out of text prompts: names x templates, kept with the run because results hang on them.

A class weight is the normalised mean of the unit text vectors of all its (name, template) pairs (MI-Zero, CONCH;
Radford et al. 2021, section 3.1.4); the ensemble is made once a class, never once a slide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from core.types import UserError

FloatArray = npt.NDArray[np.float32]


class TextEncoder(Protocol):
    """What is needed of a dual encoder."""

    def tokenize(self, texts: list[str], /) -> Any:
        """Texts to tokens, LongTensor [c, L]."""

    def encode_texts(self, tokens: Any, /) -> Any:
        """Tokens to unit vectors, float32 [c, D]."""

    def parameters(self) -> Iterator[Any]:
        """Of a torch module; the first one says where it lives."""


@dataclass(frozen=True)
class Prompts:
    """Every prompt of every class with its unit embedding."""

    class_names: tuple[str, ...]
    texts: tuple[str, ...]  # [M]
    embeddings: FloatArray  # [M, D] unit vectors
    owner: npt.NDArray[np.int64]  # [M] class of a prompt
    name: npt.NDArray[np.int64]  # [M] which of the class's names
    template: npt.NDArray[np.int64]  # [M] which template

    def weights(self, chosen: npt.NDArray[np.bool_] | None = None) -> FloatArray:
        """Unit class weights [C, D] from all prompts, or from the ``chosen`` ones ([M] bool)."""
        keep = np.ones(len(self.texts), dtype=bool) if chosen is None else chosen
        sums = np.zeros((len(self.class_names), self.embeddings.shape[1]), dtype=np.float64)
        np.add.at(sums, self.owner[keep], self.embeddings[keep])
        return _unit(sums)

    def by_class(self) -> dict[str, list[str]]:
        """The texts of each class, to be kept with a result."""
        return {
            name: [self.texts[i] for i in np.flatnonzero(self.owner == code)]
            for code, name in enumerate(self.class_names)
        }


def encode_prompts(
    model: TextEncoder, names: Mapping[str, Sequence[str]], templates: Sequence[str], batch: int = 256
) -> Prompts:
    """Embeds each name of each class in each template.

    Args:
        model: a dual encoder, in evaluation mode.
        names: class -> its names (synonyms); the order of the classes is the order of the weights.
        templates: texts with one ``{}`` for the name; ``"{}"`` alone takes the names as they are.

    Raises:
        UserError: no class, a class without a name, or a template without ``{}``.
    """
    import torch

    for text in templates:
        if "{}" not in text:
            raise UserError(f"prompt template '{text}' has no {{}} for the class name", "evaluation.templates")
    if not templates:
        raise UserError("there is no prompt template", "evaluation.templates", "give at least '{}'")
    if not names:
        raise UserError("there are no classes to ask for", "prompts", "name at least one")
    rows: list[tuple[int, int, int, str]] = []
    for code, (label, synonyms) in enumerate(names.items()):
        if not synonyms:
            raise UserError(f"class '{label}' has no prompt", "prompts", "give it at least one name")
        for which, synonym in enumerate(synonyms):
            rows.extend((code, which, number, text.replace("{}", synonym)) for number, text in enumerate(templates))
    texts = [row[3] for row in rows]
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        parts = [
            model.encode_texts(model.tokenize(texts[start : start + batch]).to(device)).float().cpu().numpy()
            for start in range(0, len(texts), batch)
        ]
    codes = np.array([row[:3] for row in rows], dtype=np.int64)
    return Prompts(tuple(names), tuple(texts), _unit(np.concatenate(parts)), codes[:, 0], codes[:, 1], codes[:, 2])


def class_weights(model: TextEncoder, names: Mapping[str, Sequence[str]], templates: Sequence[str]) -> FloatArray:
    """Unit class weights [C, D] of :func:`encode_prompts`, when the single prompts are of no interest."""
    return encode_prompts(model, names, templates).weights()


def prompt_spread(
    prompts: Prompts, images: npt.ArrayLike, labels: npt.ArrayLike, subsets: int = 50, seed: int = 0
) -> dict[str, float]:
    """Accuracy over random prompt sets: one random name a class with a random subset of templates (MI-Zero).

    Args:
        images: [N, D] unit embeddings.
        labels: [N] int class.

    Returns:
        ``median``, ``q1``, ``q3``, ``low`` and ``high`` (smallest, largest) of leaf accuracy, and ``subsets``.
    """
    generator = np.random.default_rng(seed)
    embeddings, truth = np.asarray(images, dtype=np.float32), np.asarray(labels)
    names_of = [int(prompts.name[prompts.owner == code].max()) + 1 for code in range(len(prompts.class_names))]
    templates = int(prompts.template.max()) + 1
    accuracies = []
    for _ in range(subsets):
        name = np.array([generator.integers(count) for count in names_of])
        used = generator.permutation(templates)[: generator.integers(1, templates + 1)]
        chosen = (prompts.name == name[prompts.owner]) & np.isin(prompts.template, used)
        accuracies.append(float(((embeddings @ prompts.weights(chosen).T).argmax(axis=1) == truth).mean()))
    low, q1, median, q3, high = np.quantile(accuracies, [0, 0.25, 0.5, 0.75, 1])
    values = {"median": median, "q1": q1, "q3": q3, "low": low, "high": high, "subsets": subsets}
    return {key: float(value) for key, value in values.items()}


def _unit(vectors: npt.NDArray[Any]) -> FloatArray:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
