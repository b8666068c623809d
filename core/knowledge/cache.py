"""Compiled graphs on disk: arrays and text alone in one npz file, never a pickle."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.files import atomic_write
from core.knowledge.csr import Csr
from core.knowledge.graph import KnowledgeGraph, Retired
from core.types import UserError

log = logging.getLogger(__name__)

SCHEMA = "trivium graph 1"  # change it with what is compiled or how it is stored: old caches are then not found
_END = "\0"  # no ontology holds it; splitting at it is much faster than slicing by offsets
_FLAT = ("ids", "names", "definitions", "unnamed")
_NESTED = ("synonyms", "scopes", "alternatives", "dangling")


def write_cache(path: Path, graph: KnowledgeGraph) -> None:
    """Writes atomically.

    Raises:
        UserError: the folder cannot be written.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name in _FLAT:
        _put(arrays, name, getattr(graph, name))
    for name in _NESTED:
        _put_nested(arrays, name, getattr(graph, name))
    _put_nested(arrays, "retired", [(term.id, term.name, *term.replaced_by) for term in graph.retired])
    for name in ("parents", "ancestors"):
        table: Csr = getattr(graph, name)
        arrays |= {f"{name}.indptr": table.indptr, f"{name}.indices": table.indices}
    _put(arrays, "hash", (graph.hash,))
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def read_cache(path: Path) -> KnowledgeGraph | None:
    """The graph, or None where there is no cache or a damaged one (every part carries a checksum)."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            flat = {name: _get(arrays, name) for name in _FLAT}
            nested = {name: _get_nested(arrays, name) for name in _NESTED}
            retired = tuple(Retired(id, name, tuple(heirs)) for id, name, *heirs in _get_nested(arrays, "retired"))
            tables = {n: Csr(arrays[f"{n}.indptr"], arrays[f"{n}.indices"]) for n in ("parents", "ancestors")}
            graph = KnowledgeGraph(**flat, **nested, **tables, retired=retired)  # type: ignore[arg-type]
            (known,) = _get(arrays, "hash")
    except FileNotFoundError:
        return None
    except Exception as error:  # damage raises anything; whatever it is, compiling again is the cure
        log.warning("the cached graph %s is damaged and made again: %s", path, error)
        return None
    graph.__dict__["hash"] = known  # the cached property: hashing again would double the time of a load
    return graph


def _put(arrays: dict[str, npt.NDArray[Any]], name: str, texts: Sequence[str]) -> None:
    if any(_END in text for text in texts):
        raise UserError("a text of the graph holds a NUL character")
    arrays[name] = np.frombuffer(_END.join(texts).encode(), np.uint8)
    arrays[f"{name}.count"] = np.array([len(texts)])


def _get(arrays: Any, name: str) -> tuple[str, ...]:
    count = int(arrays[f"{name}.count"][0])
    texts = tuple(arrays[name].tobytes().decode().split(_END)) if count else ()
    if len(texts) != count:
        raise ValueError(f"{name} has {len(texts)} entries, expected {count}")
    return texts


def _put_nested(arrays: dict[str, npt.NDArray[Any]], name: str, rows: Sequence[Sequence[str]]) -> None:
    _put(arrays, name, [text for row in rows for text in row])
    arrays[f"{name}.lengths"] = np.array([len(row) for row in rows], np.int64)


def _get_nested(arrays: Any, name: str) -> tuple[tuple[str, ...], ...]:
    texts = _get(arrays, name)
    ends = np.cumsum(arrays[f"{name}.lengths"]).tolist()
    return tuple(texts[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=False))
