"""What a file says of one concept, before several files become one graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Scope = Literal["EXACT", "NARROW", "BROAD", "RELATED"]
SCOPES: tuple[Scope, ...] = ("EXACT", "NARROW", "BROAD", "RELATED")


@dataclass(frozen=True)
class Term:
    """One stanza, node or row. A term without a name, or marked obsolete, is not live."""

    id: str
    name: str = ""
    definition: str = ""
    synonyms: tuple[tuple[str, Scope], ...] = ()
    parents: tuple[str, ...] = ()  # ids of is_a targets
    alt_ids: tuple[str, ...] = ()
    replaced_by: tuple[str, ...] = ()
    obsolete: bool = False

    @property
    def live(self) -> bool:
        """Whether the term is a concept of the graph."""
        return bool(self.name) and not self.obsolete


def merge_terms(files: Iterable[Iterable[Term]]) -> dict[str, Term]:
    """One term an id: the first file to name it gives name and definition, what is listed adds up.

    A term that lives in any of the files is alive: a module often repeats ids of another one without their names.
    Synonyms are compared with those of *other* files only, so that a single file keeps its own count of them.
    """
    merged: dict[str, Term] = {}
    for terms in files:
        before = dict(merged)
        for term in terms:
            known = merged.get(term.id)
            merged[term.id] = term if known is None else _join(known, term, before.get(term.id))
    return merged


def _join(known: Term, term: Term, before: Term | None) -> Term:
    if known.live != term.live:
        main, other = (known, term) if known.live else (term, known)
    else:
        main, other = known, term
    repeated = set(before.synonyms) if before is not None else set()
    return replace(
        main,
        name=main.name or other.name,
        definition=main.definition or other.definition,
        synonyms=known.synonyms + tuple(synonym for synonym in term.synonyms if synonym not in repeated),
        parents=_union(known.parents, term.parents),
        alt_ids=_union(known.alt_ids, term.alt_ids),
        replaced_by=_union(known.replaced_by, term.replaced_by),
    )


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(first + second))
