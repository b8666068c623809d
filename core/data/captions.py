"""Which words a picture is shown with at a step: a pure function of (seed, step, row)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from core.data.samplers import philox
from core.types import UserError

Source = Literal["caption", "label", "both"]


class Templates(Protocol):
    """What :class:`core.knowledge.templates.CaptionTemplates` does."""

    def caption(self, concept: int, rng: np.random.Generator) -> str: ...


@dataclass(frozen=True)
class CaptionChooser:
    """Chooses the captions of each row, with every random draw keyed by (seed, step, row).

    ``caption`` takes the manifest's own, ``label`` makes one from the row's label (through the graph's templates when
    the label is linked to a concept), ``both`` tosses a coin for each caption.

    Raises:
        UserError: ``source`` is none of the three words, or a template has an unknown field; when a caption is asked
            for, the row has nothing to choose from.
    """

    source: Source
    captions: Sequence[Sequence[str]]  # of each manifest row
    labels: Sequence[str | None]  # of each manifest row
    seed: int
    concepts: Mapping[str, int | None] = field(default_factory=dict)  # label -> concept
    templates: Templates | None = None
    patterns: Sequence[str] = ("{name}",)  # the same templates, for labels that are linked to no concept
    per_image: int = 1
    word_dropout: float = 0.0  # chance that a word is left out

    def __post_init__(self) -> None:
        if self.source not in ("caption", "label", "both"):
            raise UserError(f"data.captions.source is '{self.source}'", todo="use caption, label or both")
        if self.per_image < 1 or not 0 <= self.word_dropout < 1:
            raise UserError(
                f"data.captions has per_image {self.per_image} and word_dropout {self.word_dropout}; "
                "expected at least 1, and 0 to below 1"
            )
        for text in self.patterns:
            try:
                text.format(name="", synonym="", chain="")
            except (KeyError, ValueError, IndexError) as error:
                raise UserError(f"the template '{text}' cannot be filled in", todo="use {name}") from error

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Number of captions of each row, [B] int64; does not depend on the step, so every rank knows it."""
        if self.source == "caption":
            return np.array([min(self.per_image, len(self.captions[row])) for row in rows], np.int64)
        return np.full(len(rows), self.per_image, np.int64)

    def choose(self, step: int, row: int) -> list[str]:
        """The captions of one row at one step."""
        random = philox(self.seed, 3, step, row)
        mine, label = self.captions[row], self.labels[row]
        if self.source == "caption":
            chosen = [mine[int(number)] for number in random.permutation(len(mine))[: self.per_image]]
        else:
            chosen = []
            for _ in range(self.per_image):
                written = bool(mine) and (label is None or bool(random.integers(2))) and self.source == "both"
                chosen.append(mine[int(random.integers(len(mine)))] if written else self.from_label(row, random))
        return [self._drop(text, random) for text in chosen]

    def from_label(self, row: int, random: np.random.Generator) -> str:
        """One caption made of the row's label."""
        label = self.labels[row]
        if label is None:
            raise UserError(f"row {row} has no label to make a caption from", todo="set data.captions.source=caption")
        concept = self.concepts.get(label)
        if concept is not None and self.templates is not None:
            return self.templates.caption(concept, random)
        name = words(label)  # all that is known of a class without a concept
        return self.patterns[int(random.integers(len(self.patterns)))].format(name=name, synonym=name, chain=name)

    def _drop(self, text: str, random: np.random.Generator) -> str:
        if not self.word_dropout:
            return text
        parts = text.split()
        kept = [word for word in parts if random.random() >= self.word_dropout]
        return " ".join(kept or parts[:1])


def words(label: str) -> str:
    """A class name as words: tumour_epithelium -> tumour epithelium."""
    return " ".join(label.replace("_", " ").split())
