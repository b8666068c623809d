"""Ragged rows of integers in two arrays, and a hash of what a graph holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Csr:
    """N rows; row ``i`` is ``indices[indptr[i]:indptr[i + 1]]``. The arrays are made read-only."""

    indptr: npt.NDArray[np.int64]  # [N + 1]
    indices: npt.NDArray[np.int32]  # [nnz], ascending in each row

    def __post_init__(self) -> None:
        for array in (self.indptr, self.indices):
            array.flags.writeable = False

    @classmethod
    def of(cls, rows: Iterable[Iterable[int]]) -> Csr:
        """From rows in any order."""
        ordered = [sorted(row) for row in rows]
        indptr = np.zeros(len(ordered) + 1, np.int64)
        np.cumsum([len(row) for row in ordered], out=indptr[1:])
        return cls(indptr, np.fromiter((value for row in ordered for value in row), np.int32, int(indptr[-1])))

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Entries of each row, [N]."""
        return np.diff(self.indptr)

    def row(self, i: int) -> npt.NDArray[np.int32]:
        """One row, a view."""
        return self.indices[self.indptr[i] : self.indptr[i + 1]]

    def owners(self) -> npt.NDArray[np.int64]:
        """Row of each entry, [nnz]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def rows(self, chosen: npt.NDArray[np.integer]) -> Csr:
        """The chosen rows, in that order."""
        lengths = self.lengths[chosen]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        shift = np.repeat(self.indptr[chosen] - indptr[:-1], lengths)
        return Csr(indptr, self.indices[np.arange(indptr[-1]) + shift])

    def transposed(self) -> Csr:
        """Row ``j`` holds every ``i`` whose row holds ``j``; for square tables."""
        order = np.argsort(self.indices, kind="stable")
        indptr = np.concatenate([[0], np.cumsum(np.bincount(self.indices, minlength=len(self)))])
        return Csr(indptr, self.owners()[order].astype(np.int32))

    def relabelled(self, place: npt.NDArray[np.integer]) -> Csr:
        """Row ``i`` becomes row ``place[i]`` with every entry ``place[j]`` called ``j``."""
        label = np.empty(len(place), np.int32)
        label[place] = np.arange(len(place), dtype=np.int32)
        moved = self.rows(place)
        owner, entry = moved.owners(), label[moved.indices]
        return Csr(moved.indptr, entry[np.lexsort((entry, owner))])


def content_hash(texts: Sequence[object], nested: Sequence[object], tables: Sequence[Csr]) -> str:
    """SHA-256 over texts (as canonical JSON) and arrays (as little-endian bytes)."""
    digest = hashlib.sha256()
    for part in (*texts, *nested):
        digest.update(json.dumps(part, ensure_ascii=False, separators=(",", ":")).encode())
        digest.update(b"\n")
    for table in tables:
        for array in (table.indptr, table.indices):
            digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
