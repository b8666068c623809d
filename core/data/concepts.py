"""From the words of a manifest to concepts of a graph: one set of concepts a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from core.data.captions import Source, words
from core.data.manifest import Manifest
from core.data.table import row_names
from core.types import UserError


class Mention(Protocol):
    """A concept found in a text."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def concept(self) -> int: ...


class Linker(Protocol):
    """What :class:`core.knowledge.linking.Linker` does."""

    def link(self, text: str) -> Sequence[Mention]: ...


class Graph(Protocol):
    """What :class:`core.knowledge.graph.KnowledgeGraph` does."""

    def index(self, id: str, /) -> int: ...


@dataclass(frozen=True)
class RowConcepts:
    """Concepts of each manifest row and of each class."""

    sets: tuple[frozenset[int], ...]  # [N]
    labels: dict[str, int | None]  # class -> concept; None: unlinked

    @property
    def unlinked(self) -> tuple[str, ...]:
        """Classes without a concept."""
        return tuple(label for label, concept in self.labels.items() if concept is None)


def link_rows(manifest: Manifest, graph: Graph, linker: Linker, source: Source) -> RowConcepts:
    """Links every row: its column ``concepts`` where filled, else its label, its captions, or both.

    A row's captions share their concepts: the set of a row is the union over them.

    Raises:
        UserError: the column ``concepts`` names an id that the graph does not have.
    """
    frame = manifest.frame
    labels = link_labels([label for label in frame["label"] if label is not None], linker)
    linked: dict[str, frozenset[int]] = {}  # captions repeat
    sets = []
    for row, (ids, label, captions) in enumerate(
        zip(frame["concepts"], frame["label"], frame["captions"], strict=True)
    ):
        if ids:
            sets.append(frozenset(_index(graph, name, manifest, int(frame["row"].iloc[row])) for name in ids))
            continue
        found: set[int] = set()
        concept = labels.get(label) if label is not None else None
        if source != "caption" and concept is not None:
            found.add(concept)
        if source != "label":
            for text in captions:
                if text not in linked:
                    linked[text] = frozenset(mention.concept for mention in linker.link(text))
                found |= linked[text]
        sets.append(frozenset(found))
    return RowConcepts(tuple(sets), labels)


def link_labels(labels: Sequence[str], linker: Linker) -> dict[str, int | None]:
    """The concept of each class: the one mention that covers its whole name, or the only concept mentioned in it."""
    linked: dict[str, int | None] = {}
    for label in sorted(set(labels)):
        text = words(label)
        mentions = linker.link(text)
        whole = [mention.concept for mention in mentions if (mention.start, mention.end) == (0, len(text))]
        concepts = whole or sorted({mention.concept for mention in mentions})
        linked[label] = concepts[0] if len(set(concepts)) == 1 else None
    return linked


def _index(graph: Graph, name: str, manifest: Manifest, row: int) -> int:
    try:
        return graph.index(name)
    except UserError as error:
        raise UserError(
            error.what,
            f"{manifest.path}, {row_names(manifest.path, [row])} (concepts)",
            error.todo or "correct the id, or add the graph that has it to knowledge.path",
        ) from error
