"""A shard: the tiles of some slides as unit vectors in one FAISS file that never changes once written.

Vectors are kept in half precision (as features are) in an inverted file: k-means divides them into lists, and a search
reads the lists whose centres are nearest to the query. The lists stay on disk and are mapped into memory, so a cohort
larger than memory can be searched.
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

SUFFIX = ".faiss"
SHARD_TILES = 250_000  # a shard is closed at this size: bounds memory while it is built
TRAINING_A_LIST = 64  # vectors a list that k-means looks at; more change nothing that a search would notice
FEWEST_A_LIST = 39  # FAISS calls fewer a list too few to train on
BLOCK = 16_384  # vectors in single precision at once


@dataclass(frozen=True)
class Shard:
    """Where a shard lies; its file is opened when it is first searched."""

    path: Path

    @cached_property
    def _index(self) -> Any:
        import faiss

        try:
            return faiss.read_index(str(self.path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        except RuntimeError as error:
            todo = "ask again, in case it was just brought up to date; else remove the index: it is made anew"
            raise UserError(f"'{self.path}' is missing or damaged", todo=todo) from error

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def width(self) -> int:
        """Features a tile."""
        return int(self._index.d)

    def search(
        self, queries: np.ndarray, count: int, share: float, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The nearest tiles by cosine.

        Args:
            queries: float32 [Q, D] unit vectors.
            count: nearest tiles wanted of each query.
            share: of the lists that are read, above 0; 1 reads all, which is exact search.
            allowed: [rows] bool, rows that may be found; None: all.

        Returns:
            Cosines float32 [Q, count] in falling order and rows int64 [Q, count]; -inf and -1 where fewer were found.

        Raises:
            UserError: the file is missing or damaged.
        """
        import faiss

        index = self._index
        selector = None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)  # keeps a reference to the array
        probes = max(1, math.ceil(share * index.nlist))
        parameters = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        cosines, rows = index.search(np.ascontiguousarray(queries, np.float32), count, params=parameters)
        return np.where(rows < 0, -np.inf, cosines).astype(np.float32), rows


def write_shard(path: Path, parts: Sequence[np.ndarray], seed: int = 0) -> None:
    """Writes the vectors of some slides, whole or not at all; rows are numbered in their order.

    Args:
        path: of the file.
        parts: [T_i, D] float16 or float32, finite; scaled to unit length here, a zero vector stays zero.
        seed: of k-means and of the vectors it looks at.

    Raises:
        UserError: the file cannot be written.
    """
    import faiss

    total, width = sum(len(part) for part in parts), parts[0].shape[1]
    lists = max(1, min(round(2 * math.sqrt(total)), total // FEWEST_A_LIST))
    quantizer = faiss.IndexFlatIP(width)
    half = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexIVFScalarQuantizer(quantizer, width, lists, half, faiss.METRIC_INNER_PRODUCT, False)
    index.cp.seed, index.cp.min_points_per_centroid = seed, 1
    index.train(_sample(parts, min(total, TRAINING_A_LIST * lists), seed))
    for part in parts:
        for start in range(0, len(part), BLOCK):
            index.add(unit(part[start : start + BLOCK]))
    with atomic_write(path) as temporary:
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


def _sample(parts: Sequence[np.ndarray], count: int, seed: int) -> np.ndarray:
    """``count`` different rows of all parts, float32 unit vectors."""
    starts = np.cumsum([0, *(len(part) for part in parts)])
    rows = np.sort(np.random.default_rng(seed).choice(starts[-1], count, replace=False))
    inside = np.searchsorted(starts, rows, side="right") - 1
    return unit(np.concatenate([part[rows[inside == i] - starts[i]] for i, part in enumerate(parts)]))
