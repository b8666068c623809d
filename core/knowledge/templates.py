"""Captions made from the graph: a concept's name, one of its exact synonyms, or the chain of what it is a kind of."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from core.knowledge.graph import KnowledgeGraph
from core.types import UserError

FIELDS = ("name", "synonym", "chain")


class CaptionTemplates:
    """Fills templates such as "an H&E image of {name}".

    ``{name}`` is the concept's name; ``{synonym}`` its name or one of its exact synonyms, drawn at random; ``{chain}``
    its name and the names along a random path to a root, without the root ("seminoma, germ cell cancer, cancer"), as
    KEEP (Zhou et al. 2024, arXiv 2412.13126) writes hypernyms.
    """

    def __init__(self, graph: KnowledgeGraph, templates: Sequence[str]) -> None:
        """Checks the templates.

        Raises:
            UserError: there is none, or one has another field than name, synonym and chain.
        """
        if not templates:
            raise UserError("there is no caption template", todo='give one, such as ["an image of {name}"]')
        for template in templates:
            try:
                fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
            except ValueError as error:
                raise UserError(f"the template '{template}' cannot be read: {error}") from error
            unknown = sorted(set(fields) - set(FIELDS))
            if unknown:
                raise UserError(f"the template '{template}' has {{{unknown[0]}}}", todo=f"use {', '.join(FIELDS)}")
        self.graph = graph
        self.templates = tuple(templates)

    def caption(self, concept: int, rng: np.random.Generator) -> str:
        """One caption of a concept; the template, the synonym and the chain are drawn from ``rng``."""
        template = self.templates[rng.integers(len(self.templates))]
        return template.format(
            name=self.graph.names[concept],
            synonym=self._synonym(concept, rng) if "{synonym" in template else "",
            chain=self._chain(concept, rng) if "{chain" in template else "",
        )

    def _synonym(self, concept: int, rng: np.random.Generator) -> str:
        scopes = self.graph.scopes[concept]
        exact = [text for text, scope in zip(self.graph.synonyms[concept], scopes, strict=True) if scope == "EXACT"]
        choices = [self.graph.names[concept], *exact]
        return choices[rng.integers(len(choices))]

    def _chain(self, concept: int, rng: np.random.Generator) -> str:
        path = self.graph.chain(concept, rng)
        return ", ".join(self.graph.names[i] for i in (path[:-1] or path))
