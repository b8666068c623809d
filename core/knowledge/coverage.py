"""How much of a set of texts the linker understands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten

from core.knowledge.linking import Linker


@dataclass(frozen=True)
class Coverage:
    """What was linked in N texts; repeated texts count each time."""

    texts: int
    linked: int  # texts with at least one concept
    concepts: tuple[tuple[int, int], ...]  # (concept, texts that mention it), most frequent first
    unlinked: tuple[tuple[str, int], ...]  # (text without a concept, how often), most frequent first
    ambiguous: int  # forms of the graph that link nothing because several concepts go by them

    @property
    def share(self) -> float:
        """Share of texts with at least one concept; 0 of no texts."""
        return self.linked / self.texts if self.texts else 0.0

    def lines(self, linker: Linker, limit: int = 8) -> list[str]:
        """For people: ``name: value`` lines with the most frequent concepts and unlinked texts."""
        lines = [
            f"linked_texts: {self.linked} of {self.texts} ({self.share:.1%})",
            f"distinct_concepts: {len(self.concepts)}",
            f"ambiguous_forms: {self.ambiguous}",
        ]
        lines += [f"concept: {linker.graph.name(concept)} ({count})" for concept, count in self.concepts[:limit]]
        lines += [f"unlinked: {shorten(text, 100)} ({count})" for text, count in self.unlinked[:limit]]
        return lines


def coverage(texts: Sequence[str], linker: Linker) -> Coverage:
    """Links each distinct text once and counts."""
    concepts: Counter[int] = Counter()
    unlinked: Counter[str] = Counter()
    for text, count in Counter(texts).items():
        found = {mention.concept for mention in linker.link(text)}
        for concept in found:
            concepts[concept] += count
        if not found:
            unlinked[text] += count
    return Coverage(
        len(texts),
        len(texts) - unlinked.total(),
        tuple(concepts.most_common()),
        tuple(unlinked.most_common()),
        len(linker.ambiguous()),
    )
