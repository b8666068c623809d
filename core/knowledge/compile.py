"""From terms to a graph: which of them live, who is whose parent, and the closure; a cycle is refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from core.knowledge.csr import Csr
from core.knowledge.graph import KnowledgeGraph, Retired
from core.knowledge.terms import SCOPES, Term, merge_terms
from core.types import UserError


def compile_graph(files: Iterable[Iterable[Term]], prefix: str | None = None, where: str = "") -> KnowledgeGraph:
    """Compiles the terms of one or several files.

    Args:
        files: terms of each file; see :func:`core.knowledge.terms.merge_terms` for how they merge.
        prefix: keeps only concepts whose id starts with ``prefix:``; an edge needs both its ends.
        where: names the files in errors.

    Raises:
        UserError: no live term is left, or is_a has a cycle.
    """
    merged = merge_terms(files)
    mine = [merged[id] for id in sorted(merged) if prefix is None or id.startswith(f"{prefix}:")]
    live = [term for term in mine if term.live]
    if not live:
        raise UserError(_nothing(merged, prefix), where, "check the file and knowledge.prefix")
    index = {term.id: i for i, term in enumerate(live)}
    above = [sorted({index[parent] for parent in term.parents if parent in index}) for term in live]
    order = _ancestors_first(above, live, where)
    closure: list[set[int]] = [set() for _ in live]
    for i in order:
        closure[i] = set(above[i]).union(*(closure[parent] for parent in above[i]))
    # files list synonyms in any order; exact ones come first here
    called = [sorted(term.synonyms, key=lambda synonym: (SCOPES.index(synonym[1]), synonym[0])) for term in live]
    return KnowledgeGraph(
        ids=tuple(term.id for term in live),
        names=tuple(term.name for term in live),
        synonyms=tuple(tuple(text for text, _ in synonyms) for synonyms in called),
        scopes=tuple(tuple(scope for _, scope in synonyms) for synonyms in called),
        definitions=tuple(term.definition for term in live),
        parents=Csr.of(above),
        ancestors=Csr.of(closure),
        alternatives=tuple(sorted({(other, term.id) for term in live for other in term.alt_ids})),
        retired=tuple(Retired(term.id, term.name, term.replaced_by) for term in mine if term.obsolete),
        dangling=tuple((term.id, parent) for term in live for parent in sorted(term.parents) if parent not in index),
        unnamed=tuple(term.id for term in mine if not term.obsolete and not term.name),
    )


def _nothing(merged: dict[str, Term], prefix: str | None) -> str:
    if prefix is None or not merged:
        return "the graph has no live term (a name, and not obsolete)"
    prefixes = Counter(term.id.partition(":")[0] for term in merged.values() if term.live)
    found = ", ".join(f"{name} ({count})" for name, count in prefixes.most_common(8)) or "none"
    return f"no live term has the prefix '{prefix}'; prefixes of live terms are {found}"


def _ancestors_first(above: Sequence[Sequence[int]], live: Sequence[Term], where: str) -> list[int]:
    """Every concept after all of its parents (Kahn's algorithm)."""
    waiting = [len(parents) for parents in above]
    below: list[list[int]] = [[] for _ in above]
    for child, parents in enumerate(above):
        for parent in parents:
            below[parent].append(child)
    order = [i for i, count in enumerate(waiting) if count == 0]
    for i in order:  # grows while it is read
        for child in below[i]:
            waiting[child] -= 1
            if waiting[child] == 0:
                order.append(child)
    if len(order) < len(above):
        cycle = _cycle(above, {i for i, count in enumerate(waiting) if count})
        path = " -> ".join(f"{live[i].id} ({live[i].name})" for i in (*cycle, cycle[0]))
        raise UserError(f"is_a has a cycle: {path}", where, "remove one of these is_a lines")
    return order


def _cycle(above: Sequence[Sequence[int]], stuck: set[int]) -> list[int]:
    """One cycle: each stuck concept has a stuck parent, so walking up must come back."""
    path: list[int] = []
    node = min(stuck)
    while node not in path:
        path.append(node)
        node = next(parent for parent in above[node] if parent in stuck)
    return path[path.index(node) :]
