"""Finding the concepts that a text mentions: longest match over names and synonyms, with character spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.knowledge.aliases import NOTHING, read_aliases
from core.knowledge.denial import is_denied
from core.knowledge.graph import KnowledgeGraph
from core.knowledge.normalise import HARD, Token, compact, joined, tokens
from core.knowledge.stop_forms import is_acronym, is_stop_form

_RANK = {"ALIAS": 0, "NAME": 1, "EXACT": 2, "NARROW": 3, "BROAD": 4, "RELATED": 5}


@dataclass(frozen=True)
class Mention:
    """A concept found in a text: ``text[start:end]`` names it."""

    start: int  # characters of the original text
    end: int
    text: str
    concept: int


@dataclass
class _Node:
    """A place in the tree of forms: the words so far."""

    after: dict[str, _Node] = field(default_factory=dict)
    word: dict[int, int] = field(default_factory=dict)  # concept -> rank, of forms that any case matches
    acronym: dict[str, dict[int, int]] = field(default_factory=dict)  # the same by letters that must match as written


class Linker:
    """Links texts to the concepts of a graph.

    Words are compared as :mod:`core.knowledge.normalise` says: case, accents, hyphens, possessives, plurals and British
    spelling make no difference. An acronym matches in its own case alone, and never in a text that is all capitals
    (unless it is the whole text). Stop forms (:mod:`core.knowledge.stop_forms`) never match. From the left, the longest
    match wins and its words are used up. Of several concepts that go by one form, a name wins over a synonym and an
    exact synonym over others; of equals, one that is an ancestor of all the others; else the form is ambiguous and
    links nothing. An alias wins over all. What a text denies (:mod:`core.knowledge.denial`) is not linked.
    """

    def __init__(self, graph: KnowledgeGraph, aliases: str | Path | None = None) -> None:
        """Builds the tree of forms.

        Args:
            graph: the concepts.
            aliases: CSV with columns ``text`` and ``concept`` (id or name; ``none`` or blank links nothing).

        Raises:
            UserError: the alias table is missing or wrong, with its line.
        """
        self.graph = graph
        self._root = _Node()
        for concept, name in enumerate(graph.names):
            self._add(name, concept, _RANK["NAME"])
            for synonym, scope in zip(graph.synonyms[concept], graph.scopes[concept], strict=True):
                self._add(synonym, concept, _RANK[scope])
        for text, concept in [] if aliases is None else read_aliases(Path(aliases), graph):
            self._add(text, concept, _RANK["ALIAS"])

    def link(self, text: str) -> list[Mention]:
        """Mentions in the order of the text, never overlapping; denied ones are left out."""
        words = tokens(text)
        hyphenated: dict[int, list[tuple[int, str]]] = {}
        if any(word.hyphen for word in words):
            for first, end, key in joined(text, words):
                hyphenated.setdefault(first, []).append((end, key))
        shouted = len(words) > 1 and text.isupper()
        mentions, place, known = [], 0, self._root.after
        while place < len(words):
            found = None
            if place in hyphenated or words[place].key in known:
                found = self._longest(text, words, place, hyphenated, shouted)
            if found is None:
                place += 1
                continue
            end, concept = found
            start, stop = words[place].start, words[end - 1].end
            if concept != NOTHING and not is_denied(text, start, stop):
                mentions.append(Mention(start, stop, text[start:stop], concept))
            place = end
        return mentions

    def ambiguous(self) -> dict[str, tuple[int, ...]]:
        """Forms that link nothing because several concepts go by them, with these concepts."""
        found: dict[str, tuple[int, ...]] = {}
        waiting: list[tuple[str, _Node]] = [("", self._root)]
        while waiting:
            words, node = waiting.pop()
            for form, ranks in ((words, node.word), *node.acronym.items()):
                if ranks and self._choose(ranks) is None:
                    best = min(ranks.values())
                    found[form.strip()] = tuple(sorted(i for i, rank in ranks.items() if rank == best))
            # the same form without its commas is in the tree too
            waiting.extend((f"{words} {word}", below) for word, below in node.after.items() if word != HARD)
        return dict(sorted(found.items()))

    def _add(self, form: str, concept: int, rank: int) -> None:
        words = tokens(form)
        keys = [word.key for word in words]
        if not keys or (rank != _RANK["ALIAS"] and is_stop_form(form, keys)):
            return
        variants = {_path(words, True), _path(words, False)}
        for first, end, key in joined(form, words):
            variants.add((*keys[:first], key, *keys[end:]))
        letters = compact(form) if is_acronym(form) else ""
        for variant in variants:
            node = self._root
            for key in variant:
                node = node.after.setdefault(key, _Node())
            ranks = node.acronym.setdefault(letters, {}) if letters else node.word
            ranks[concept] = min(rank, ranks.get(concept, rank))

    def _longest(
        self,
        text: str,
        words: Sequence[Token],
        first: int,
        hyphenated: dict[int, list[tuple[int, str]]],
        shouted: bool,
    ) -> tuple[int, int] | None:
        """(One past the last word, concept) of the longest form that starts at a word."""
        best: tuple[int, int] | None = None
        open_paths: list[tuple[_Node, int]] = [(self._root, first)]
        while open_paths:
            node, place = open_paths.pop()
            if place > first:
                if best is None or place > best[0]:
                    concept = self._at(node, text, words[first].start, words[place - 1].end, shouted)
                    best = best if concept is None else (place, concept)
                if place < len(words) and words[place - 1].hard:
                    if HARD not in node.after:
                        continue
                    node = node.after[HARD]
            if place == len(words):
                continue
            for end, key in ((place + 1, words[place].key), *hyphenated.get(place, ())):
                below = node.after.get(key)
                if below is not None:
                    open_paths.append((below, end))
        return best

    def _at(self, node: _Node, text: str, start: int, end: int, shouted: bool) -> int | None:
        """The concept of a form that ends here, if the case of the text allows it."""
        written: dict[int, int] = {}
        if node.acronym and not (shouted and end - start < len(text.strip())):
            letters = compact(text[start:end])
            written = node.acronym.get(letters) or node.acronym.get(letters.removesuffix("s")) or {}
        # a form in its own case says more than one of any case, unless the user wrote the latter
        best = min((ranks for ranks in (written, node.word) if ranks), key=_is_no_alias, default=None)
        return None if best is None else self._choose(best)

    def _choose(self, ranks: dict[int, int]) -> int | None:
        """The concept a form means, or None where it is ambiguous."""
        best = min(ranks.values())
        equals = [concept for concept, rank in ranks.items() if rank == best]
        if len(equals) == 1:
            return equals[0]
        for concept in equals:
            if all(other == concept or self.graph.is_ancestor(concept, other) for other in equals):
                return concept
        return None


def _is_no_alias(ranks: dict[int, int]) -> bool:
    return min(ranks.values()) != _RANK["ALIAS"]


def _path(words: Sequence[Token], hard: bool) -> tuple[str, ...]:
    """Keys of a form, with or without its commas and brackets: "leukemia, acute" is also written without."""
    path = [key for word in words for key in ((word.key, HARD) if hard and word.hard else (word.key,))]
    return tuple(path[:-1] if path and path[-1] == HARD else path)
