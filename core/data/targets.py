"""Facts about the pairs of a global batch, the same on every rank without a message between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from core.types import Targets


class Table(Protocol):
    """What :class:`core.knowledge.relations.RelationTable` does."""

    def codes(self, unique_set_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...


@dataclass(frozen=True)
class Relations:
    """What the knowledge says of each manifest row; a row's captions share its group and its concepts."""

    group: np.ndarray  # [N] int64, interned
    set_id: np.ndarray  # [N] int64, interned concept sets
    table: Table | None = None  # relations between sets; None: no graph, all sets unrelated


def make_targets(rows: np.ndarray, counts: np.ndarray, relations: Relations, row_splits: tuple[int, ...]) -> Targets:
    """Targets of one global batch.

    Args:
        rows: manifest rows of the batch, [B] int64, unique; they are the owners' numbers.
        counts: captions of each row, [B] int64.
        relations: of all manifest rows.
        row_splits: offsets of the ranks in ``rows``, W + 1.
    """
    unique, inverse = np.unique(relations.set_id[rows], return_inverse=True)
    if relations.table is None:
        indptr, indices, codes = np.zeros(len(unique) + 1, np.int64), np.empty(0, np.int64), np.empty(0, np.int8)
    else:
        indptr, indices, codes = relations.table.codes(unique)
    ends = np.concatenate([[0], np.cumsum(counts)])
    columns = np.repeat(np.arange(len(rows)), counts)
    group = relations.group[rows]
    return Targets(
        row_owner=_tensor(rows, np.int64),
        column_owner=_tensor(rows[columns], np.int64),
        row_group=_tensor(group, np.int64),
        column_group=_tensor(group[columns], np.int64),
        row_set=_tensor(inverse, np.int64),
        column_set=_tensor(inverse[columns], np.int64),
        indptr=_tensor(indptr, np.int64),
        indices=_tensor(indices, np.int64),
        codes=_tensor(codes, np.int8),
        row_splits=row_splits,
        column_splits=tuple(int(ends[offset]) for offset in row_splits),
    )


def _tensor(values: np.ndarray, dtype: type[np.generic]) -> torch.Tensor:
    # a copy: tensors must not share memory with the tables they were cut from
    return torch.from_numpy(np.array(values, dtype=dtype))
