"""A shard: the tiles of some slides as unit vectors in files that never change once written.

``<name>.npy`` holds the vectors in half precision, mapped into memory, so that a cohort larger than memory can be
searched. ``<name>.faiss`` holds 4-bit codes of pairs of components (product quantisation, Jegou et al. 2011; scanned in
registers, Andre et al. 2017): an eighth of the size and all read at every search. The nearest by code are candidates
that are ranked again by their vectors. Lists or graphs would read less, but they are laid out by how tiles lie among
tiles; a text lies far from all of them, and its nearest tiles are spread over many lists (measured by
``tests.benchmarks.search``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from core.files import atomic_write
from core.types import UserError

VECTORS, CODES = ".npy", ".faiss"
SHARD_TILES = 250_000  # a shard is closed at this size: bounds memory while it is built
CODED_TILES = 8_192  # a smaller shard has no codes: exact search is as quick
TRAINING = 16_384  # vectors that the 16 centres of a pair of components are learned from
FILTERED = 8  # where fewer than one of so many tiles is allowed, exact search reads as little as the codes would
BLOCK = 16_384  # vectors in single precision at once


@dataclass(frozen=True, eq=False)
class Shard:
    """Where a shard lies, without the suffix; its files are opened when it is first searched."""

    path: Path

    @cached_property
    def vectors(self) -> np.ndarray:
        """[rows, D] float16, mapped."""
        try:
            mapped: np.ndarray = np.load(_file(self.path, VECTORS), mmap_mode="r")
        except (OSError, ValueError) as error:
            raise self._damaged() from error
        return mapped

    @cached_property
    def codes(self) -> Any:
        """The FAISS index of codes; None for a small shard."""
        import faiss

        if len(self) < CODED_TILES:
            return None
        try:
            return faiss.read_index(str(_file(self.path, CODES)), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise self._damaged() from error

    def __len__(self) -> int:
        return len(self.vectors)

    def exact(
        self, queries: np.ndarray, count: int, ranges: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest tiles by cosine, from all vectors of some ranges of rows.

        Args:
            queries: float32 [Q, D] unit vectors.
            count: tiles wanted of each query.
            ranges: (first, last + 1) of rows that may be found.

        Returns:
            Cosines float32 and rows int64, [Q, <= count] in falling order.
        """
        cosines, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        for first, stop in ranges:
            for start in range(first, stop, BLOCK):
                block = self.vectors[start : min(start + BLOCK, stop)].astype(np.float32)
                own = np.broadcast_to(np.arange(start, start + len(block)), (len(queries), len(block)))
                cosines, rows = best(np.hstack([cosines, queries @ block.T]), np.hstack([rows, own]), count)
        return cosines, rows

    def candidates(
        self, queries: np.ndarray, count: int, ranges: Sequence[tuple[int, int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest tiles by code, as :meth:`exact`, with cosines that are approximate."""
        allowed = sum(stop - first for first, stop in ranges)
        if self.codes is None or allowed * FILTERED < len(self):
            return self.exact(queries, count, ranges)
        wanted = min(len(self), math.ceil(1.5 * count * len(self) / allowed)) if allowed < len(self) else count
        cosines, rows = self.codes.search(np.ascontiguousarray(queries, np.float32), min(wanted, len(self)))
        if allowed == len(self):
            return cosines, rows
        fits = np.zeros(len(self), bool)
        for first, stop in ranges:
            fits[first:stop] = True
        cosines, rows = best(np.where(fits[rows], cosines, -np.inf), rows, count)
        return (cosines, rows) if np.isfinite(cosines).all() else self.exact(queries, count, ranges)

    def cosines(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Cosine of each query with a row of its own: float32 [N] of queries [N, D] and rows [N]."""
        order = np.argsort(rows, kind="stable")  # the file is read forwards
        values = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), BLOCK):
            some = order[start : start + BLOCK]
            values[some] = np.einsum("nd,nd->n", queries[some], self.vectors[rows[some]].astype(np.float32))
        return values

    def _damaged(self) -> UserError:
        return UserError(f"the shard '{self.path}' of the index is missing or damaged",
                         todo="ask again, in case it was just brought up to date; else remove the index: it is made "
                         "anew")  # fmt: skip


def write_shard(path: Path, parts: Sequence[np.ndarray], seed: int = 0) -> None:
    """Writes the vectors of some slides, each file whole or not at all; rows are numbered in their order.

    Args:
        path: without suffix.
        parts: [T_i, D] float16 or float32, finite; scaled to unit length here, a zero vector stays zero.
        seed: of the vectors that codes are learned from, and of how.

    Raises:
        UserError: a file cannot be written.
    """
    import faiss

    vectors = np.concatenate([unit(part).astype(np.float16) for part in parts])
    with atomic_write(_file(path, VECTORS)) as temporary, open(temporary, "wb") as file:
        np.save(file, vectors)
    if len(vectors) < CODED_TILES:
        return
    total, width = vectors.shape
    index = faiss.IndexPQFastScan(width, width // 2 if width % 2 == 0 else width, 4, faiss.METRIC_INNER_PRODUCT)
    index.pq.cp.seed = seed
    sample = np.sort(np.random.default_rng(seed).choice(total, min(total, TRAINING), replace=False))
    index.train(vectors[sample].astype(np.float32))
    for start in range(0, total, BLOCK):
        index.add(vectors[start : start + BLOCK].astype(np.float32))
    with atomic_write(_file(path, CODES)) as temporary:
        try:
            faiss.write_index(index, str(temporary))
        except RuntimeError as error:  # FAISS tells of a full disk in an error of its own
            raise OSError(str(error).strip().splitlines()[-1]) from error


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length, float32; zero rows stay zero."""
    values = np.ascontiguousarray(vectors, np.float32)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    scaled: np.ndarray = values / np.where(norms > 0, norms, 1)
    return scaled


def best(cosines: np.ndarray, tiles: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``count`` largest of each query in falling order; tiles are [Q, N] or [Q, N, 2]."""
    if cosines.shape[1] > 4 * count:  # sorting all of them would take longer than looking for them
        part = np.argpartition(-cosines, count, axis=1)[:, :count]
        cosines, tiles = _take(cosines, part), _take(tiles, part)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return _take(cosines, order), _take(tiles, order)


def _take(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, columns[..., None] if values.ndim == 3 else columns, 1)


def _file(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
