"""The knowledge graph: concepts, what they are called, and what each of them is a kind of."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from core.knowledge.csr import Csr, content_hash
from core.knowledge.terms import Scope
from core.types import UserError

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Retired:
    """An obsolete term: not a concept, but its id may still be asked for."""

    id: str
    name: str
    replaced_by: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class KnowledgeGraph:
    """N live concepts, sorted by id, over is_a; immutable, and equal to any graph of equal content.

    A concept is its index in [0, N) everywhere in the suite; ids and names are for files and people. Make one with
    :func:`core.knowledge.load.load_graph` or :func:`core.knowledge.compile.compile_graph`.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]  # of each concept, exact ones first
    scopes: tuple[tuple[Scope, ...], ...]  # of each synonym
    definitions: tuple[str, ...]  # "" where there is none
    parents: Csr  # direct is_a parents, ascending
    ancestors: Csr  # transitive closure of ``parents``, without the concept itself, ascending
    alternatives: tuple[tuple[str, str], ...] = ()  # (alternative id, id of the concept)
    retired: tuple[Retired, ...] = ()
    dangling: tuple[tuple[str, str], ...] = ()  # (id of the concept, is_a target that is no concept of this graph)
    unnamed: tuple[str, ...] = ()  # ids that are neither obsolete nor have a name

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KnowledgeGraph) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the content: the same for the same graph in any process and from any file format."""
        texts = [self.ids, self.names, self.definitions, self.unnamed]
        nested = [self.synonyms, self.scopes, self.alternatives, self.dangling]
        retired = [(term.id, term.name, *term.replaced_by) for term in self.retired]
        return content_hash(texts, [*nested, retired], [self.parents])

    def index(self, id: str) -> int:
        """Index of the concept with an id, an alternative id, or the id of an obsolete term with one replacement.

        Raises:
            UserError: no concept has it; an obsolete term without a single live replacement is named as such.
        """
        found = self._lookup.get(id)
        if found is not None:
            return found
        for term in self.retired:
            if term.id == id:
                hint = f"use {' or '.join(term.replaced_by)}" if term.replaced_by else "choose a concept in its place"
                raise UserError(f"'{id}' ({term.name or 'no name'}) is obsolete in the graph", todo=hint)
        raise UserError(f"the graph has no concept '{id}'", todo="correct the id, or add the graph that has it")

    def find(self, text: str) -> int:
        """Index by id, or else by exact name (of any case) where one concept alone bears it.

        Raises:
            UserError: nothing, or several concepts, go by it.
        """
        if text in self._lookup or any(term.id == text for term in self.retired):
            return self.index(text)
        found = [i for i, name in enumerate(self.names) if name.casefold() == text.casefold()]
        if len(found) > 1:
            ids = ", ".join(self.ids[i] for i in found)
            raise UserError(f"several concepts are named '{text}': {ids}", todo="give the id")
        if not found:
            raise UserError(f"the graph has no concept with id or name '{text}'", todo="correct it")
        return found[0]

    def name(self, i: int) -> str:
        """Name of a concept."""
        return self.names[i]

    def parents_of(self, i: int) -> Ints:
        """Direct parents, [n] int32 ascending."""
        return self.parents.row(i)

    def ancestors_of(self, i: int) -> Ints:
        """All proper ancestors, [n] int32 ascending."""
        return self.ancestors.row(i)

    def children_of(self, i: int) -> Ints:
        """Direct children, [n] int32 ascending."""
        return self._children.row(i)

    def roots(self) -> tuple[int, ...]:
        """Concepts without a parent in the graph; in a base product many of them are not the top of anything."""
        return _where(self.parents.lengths == 0)

    def leaves(self) -> tuple[int, ...]:
        """Concepts without a child in the graph."""
        return _where(self._children.lengths == 0)

    def is_ancestor(self, a: int, b: int) -> bool:
        """Whether ``a`` is a proper ancestor of ``b``."""
        row = self.ancestors_of(b)
        place = int(np.searchsorted(row, a))
        return place < len(row) and int(row[place]) == a

    def depth(self) -> int:
        """Edges on the longest path from a root."""
        return int(self.depths().max(initial=0))

    def depths(self, longest: bool = True) -> Ints:
        """Edges on the longest (or the shortest) path from a root to each concept, [N] int32."""
        depth: Ints = np.zeros(len(self), np.int32)
        choose = max if longest else min
        # an ancestor has fewer ancestors than its descendants, so this order is topological
        for i in np.argsort(self.ancestors.lengths, kind="stable"):
            above = self.parents_of(i)
            if len(above):
                depth[i] = 1 + choose(int(depth[parent]) for parent in above)
        return depth

    def tree_distance(self, a: int, b: int) -> int:
        """Edges from ``a`` up to the nearest common ancestor and down to ``b``; trees meet above their roots."""
        up, down = self._climb(a), self._climb(b)
        return min(up[node] + down[node] for node in up.keys() & down.keys())

    def chain(self, i: int, rng: np.random.Generator) -> list[int]:
        """A path of parents from ``i`` (first) to a root (last), each parent drawn at random."""
        path = [int(i)]
        while len(above := self.parents_of(path[-1])):
            path.append(int(above[rng.integers(len(above))]))
        return path

    def counts(self) -> dict[str, int]:
        """What the graph holds; synonyms of all scopes."""
        return {
            "live_terms": len(self),
            "synonyms": sum(map(len, self.synonyms)),
            "definitions": sum(1 for definition in self.definitions if definition),
            "is_a_edges": len(self.parents.indices),
            "multi_parent_terms": int((self.parents.lengths > 1).sum()),
            "roots": len(self.roots()),
        }

    def shuffled(self, seed: int) -> KnowledgeGraph:
        """The control graph: the same shape with concepts dealt to its nodes anew; ids and names stay.

        Concept ``i`` takes the place that concept ``p[i]`` has here, for a random permutation ``p``. Only relations
        change, so whoever links, groups and names with this graph gets what the true one gives.
        """
        place = np.random.default_rng(seed).permutation(len(self))
        return replace(
            self, parents=self.parents.relabelled(place), ancestors=self.ancestors.relabelled(place), dangling=()
        )

    @cached_property
    def _children(self) -> Csr:
        return self.parents.transposed()

    @cached_property
    def _lookup(self) -> dict[str, int]:
        """Ids first; then alternative ids; then obsolete ids with exactly one live replacement."""
        lookup = {id: i for i, id in enumerate(self.ids)}
        for alternative, id in self.alternatives:
            lookup.setdefault(alternative, lookup[id])
        replaced = {}
        for term in self.retired:
            heirs = {lookup[id] for id in term.replaced_by if id in lookup}
            if len(heirs) == 1:
                replaced[term.id] = heirs.pop()
        return replaced | lookup

    def _climb(self, i: int) -> dict[int, int]:
        """Fewest edges from a concept up to each of its ancestors and to the point above all roots, -1."""
        steps, waiting = {int(i): 0}, deque([int(i)])
        while waiting:
            node = waiting.popleft()
            above: Sequence[int] = self.parents_of(node).tolist() or [-1] if node >= 0 else []
            for parent in above:
                if parent not in steps:
                    steps[parent] = steps[node] + 1
                    waiting.append(parent)
        return steps


def _where(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(mask))
