"""Relations between sets of concepts, compiled once from the closure, so that a step never searches the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.knowledge.csr import Csr
from core.knowledge.graph import KnowledgeGraph
from core.types import Relation

ROWS = 128  # rows made dense at a time: their tiles stay in the cache of a core

Bits = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class ConceptSets:
    """The distinct concept sets of a manifest of N rows."""

    set_id: npt.NDArray[np.int64]  # [N] in [0, len(sets))
    sets: tuple[frozenset[int], ...]  # by first appearance

    @classmethod
    def intern(cls, sets: Sequence[frozenset[int]]) -> ConceptSets:
        """Numbers the sets of N rows, so that equal sets have one number."""
        numbers: dict[frozenset[int], int] = {}
        ids = [numbers.setdefault(found, len(numbers)) for found in sets]
        return cls(np.array(ids, np.int64), tuple(numbers))


class RelationTable:
    """How concept sets are related, for any choice of them.

    Concepts are held as bits: for each concept, a row of bits says which of the chosen sets have it, and another which
    have a descendant of it. The relations of a set are then an OR over the rows of its few concepts.
    """

    def __init__(self, graph: KnowledgeGraph, sets: ConceptSets) -> None:
        """Compiles, for each set, its concepts and all their proper ancestors.

        Args:
            graph: the closure; a shuffled one for a control.
            sets: of the whole manifest.
        """
        used = sorted(frozenset().union(*sets.sets))
        number = {concept: i for i, concept in enumerate(used)}
        # an ancestor that no set of the manifest mentions relates nothing
        above = [[number[a] for a in graph.ancestors_of(concept).tolist() if a in number] for concept in used]
        own = [sorted(number[concept] for concept in found) for found in sets.sets]
        self._concepts = Csr.of(own)  # set -> its concepts, renumbered
        self._ancestors = Csr.of({a for concept in mine for a in above[concept]} for mine in own)
        self._used = len(used)

    def codes(
        self, unique_set_ids: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int8]]:
        """Relations among U distinct sets, as a sparse matrix of :class:`core.types.Relation`.

        Args:
            unique_set_ids: [U] distinct.

        Returns:
            ``indptr`` [U + 1], ``indices`` [nnz] positions in ``unique_set_ids``, ascending in each row, and ``codes``
            [nnz] of (row, column). What is not stored is unrelated; an empty set is stored nowhere.
        """
        count = len(unique_set_ids)
        mine, above = self._concepts.rows(unique_set_ids), self._ancestors.rows(unique_set_ids)
        present = np.flatnonzero(np.bincount(mine.indices, minlength=self._used))
        number = np.full(self._used, -1, np.int32)
        number[present] = np.arange(len(present), dtype=np.int32)
        mine, above = _renumbered(mine, number), _renumbered(above, number)
        having, below = _columns(mine, len(present)), _columns(above, len(present))
        shared, ancestor, descendant = _any(mine, having), _any(mine, below), _any(above, having)
        # the strongest wins: SHARED is 3, ANCESTOR is 2, DESCENDANT is 1, so two bits hold a code
        low, high = shared | (descendant & ~ancestor), shared | ancestor
        related = low | high
        indptr = np.concatenate([[0], np.cumsum(np.bitwise_count(related).sum(axis=1, dtype=np.int64))])
        indices, codes = np.empty(indptr[-1], np.int64), np.empty(indptr[-1], np.int8)
        for start in range(0, count, ROWS):
            rows = np.arange(start, min(start + ROWS, count))
            stored = np.flatnonzero(_unpacked(related[rows], count).view(np.bool_))
            units, twos = _unpacked(low[rows], count), _unpacked(high[rows], count)
            # distinct sets are equal to themselves alone; an empty one is not stored
            units[rows - start, rows] = Relation.EQUAL - Relation.ANCESTOR
            part = slice(indptr[start], indptr[rows[-1] + 1])
            codes[part] = units.ravel()[stored] + 2 * twos.ravel()[stored]
            indices[part] = stored - np.repeat((rows - start) * count, np.diff(indptr[start : rows[-1] + 2]))
        return indptr, indices, codes


def _renumbered(rows: Csr, number: npt.NDArray[np.int32]) -> Csr:
    """Rows with their entries renumbered; entries numbered -1 are left out."""
    entries = number[rows.indices]
    kept = entries >= 0
    ends = np.concatenate([[0], np.cumsum(kept)])
    return Csr(ends[rows.indptr].astype(np.int64), entries[kept])


def _columns(rows: Csr, width: int) -> Bits:
    """Bit ``j`` of line ``c``: row ``j`` holds ``c``; [width, ceil(U / 64)]."""
    words = -(-len(rows) // 64)
    bits = np.zeros(width * words * 8, np.uint8)
    owner = rows.owners()
    place = rows.indices.astype(np.int64) * (words * 8) + (owner >> 3)
    np.bitwise_or.at(bits, place, np.left_shift(1, owner & 7).astype(np.uint8))
    return bits.view(np.uint64).reshape(width, words)


def _any(rows: Csr, bits: Bits) -> Bits:
    """OR of the lines of ``bits`` that each row holds, [len(rows), words]."""
    result = np.zeros((len(rows), bits.shape[1]), np.uint64)
    lengths = rows.lengths
    for number in range(int(lengths.max(initial=0))):
        longer = np.flatnonzero(lengths > number)
        result[longer] |= bits[rows.indices[rows.indptr[longer] + number]]
    return result


def _unpacked(bits: Bits, count: int) -> npt.NDArray[np.uint8]:
    """0 or 1 for each of the first ``count`` bits of each line."""
    return np.unpackbits(bits.view(np.uint8), axis=1, count=count, bitorder="little")
