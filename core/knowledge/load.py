"""Reading graphs from files, through a cache on disk, and checking what was read."""

from __future__ import annotations

import gzip
import hashlib
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.knowledge.cache import SCHEMA, read_cache, write_cache
from core.knowledge.graph import KnowledgeGraph
from core.knowledge.terms import Term
from core.types import UserError

log = logging.getLogger(__name__)

_OWL = "convert it to OBO, for example with: robot convert --input graph.owl --output graph.obo"


@dataclass(frozen=True)
class Finding:
    """Something in a graph that a person should know; none of it stops a run."""

    kind: str  # "dangling parent", "duplicate name", "alternative id", "unnamed term", "obsolete term"
    id: str
    name: str
    detail: str


def load_graph(
    paths: str | Path | Sequence[str | Path], prefix: str | None = None, cache: Path | None = None
) -> KnowledgeGraph:
    """Reads one graph, or several and merges them.

    Args:
        paths: OBO (``.obo``), obo-graph JSON (``.json``) or CSV taxonomies (``.csv``), each also gzipped.
        prefix: keeps only the concepts of one ontology ("CL").
        cache: folder for compiled graphs, keyed by the content of the files; None compiles each time.

    Raises:
        UserError: a file is missing or no ontology, no live term is left, or is_a has a cycle.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if not files:
        raise UserError("no graph is given", "knowledge.path", "give a file, or a list of files in brackets")
    contents = [_bytes(file) for file in files]
    cached = None if cache is None else cache_file(cache, files, contents, prefix)
    if cached is not None and (graph := read_cache(cached)) is not None:
        return graph
    from core.knowledge.compile import compile_graph  # what the cache saves

    terms = [_terms(file, content) for file, content in zip(files, contents, strict=True)]
    graph = compile_graph(terms, prefix or None, ", ".join(map(str, files)))
    if cached is not None:
        try:
            write_cache(cached, graph)
        except UserError as error:  # a graph in memory is all a run needs
            log.warning("the compiled graph is not cached: %s", error)
    return graph


def cache_file(cache: Path, files: Sequence[Path], contents: Sequence[bytes], prefix: str | None) -> Path:
    """Where the compiled graph of these contents is kept."""
    digest = hashlib.sha256(f"{SCHEMA}\n{prefix or ''}\n".encode())
    for file, content in zip(files, contents, strict=True):
        digest.update(f"{_kind(file)} {hashlib.sha256(content).hexdigest()}\n".encode())
    return Path(cache) / "graphs" / f"{digest.hexdigest()[:32]}.npz"


def check_graph(graph: KnowledgeGraph) -> list[Finding]:
    """Dangling parents, duplicate names, clashing alternative ids, unnamed and obsolete terms; cycles never load."""
    names = dict(zip(graph.ids, graph.names, strict=True))
    unnamed = set(graph.unnamed)
    retired = {term.id for term in graph.retired}
    findings = []
    for child, target in graph.dangling:
        why = "is obsolete" if target in retired else "has no name" if target in unnamed else "is not in the graph"
        findings.append(Finding("dangling parent", child, names[child], f"parent {target} {why}"))
    bearers: dict[str, list[str]] = {}
    for id, name in names.items():
        bearers.setdefault(name, []).append(id)
    for name, ids in bearers.items():
        if len(ids) > 1:
            findings.append(Finding("duplicate name", ids[0], name, f"also the name of {', '.join(ids[1:])}"))
    owners: dict[str, list[str]] = {}
    for alternative, id in graph.alternatives:
        owners.setdefault(alternative, []).append(id)
    for alternative, ids in owners.items():
        if alternative in names:
            text = f"is also an alternative id of {', '.join(ids)}"
            findings.append(Finding("alternative id", alternative, names[alternative], text))
        elif len(ids) > 1:
            text = f"stands for several concepts; {ids[0]} is taken, not {', '.join(ids[1:])}"
            findings.append(Finding("alternative id", alternative, "", text))
    findings += [Finding("unnamed term", id, "", "has no name and is left out") for id in graph.unnamed]
    for term in graph.retired:
        text = f"replaced by {', '.join(term.replaced_by)}" if term.replaced_by else "without a replacement"
        findings.append(Finding("obsolete term", term.id, term.name, text))
    return findings


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the graph '{path}': {error.strerror}", todo="give an existing file") from error


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")


def _terms(path: Path, content: bytes) -> list[Term]:
    """Terms of one file, by its suffix."""
    from core.knowledge.obo import read_obo
    from core.knowledge.obo_json import read_obo_json
    from core.knowledge.table import read_table

    readers: dict[str, Callable[[str], list[Term]]] = {".obo": read_obo, ".json": read_obo_json, ".csv": read_table}
    reader = readers.get(_kind(path))
    if reader is None:
        todo = _OWL if _kind(path) in (".owl", ".rdf", ".ttl", ".omn", ".ofn") else "give .obo, .json or .csv (.gz)"
        raise UserError(f"'{path}' is not a graph of a known format", todo=todo)
    try:
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8-sig")
        terms = reader(text)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, zlib.error) as error:
        reason = f"{type(error).__name__} {error}" if isinstance(error, KeyError | TypeError) else str(error)
        raise UserError(f"'{path}' is not an ontology: {' '.join(reason.split())}", todo="check the file") from error
    if not terms:
        raise UserError(f"'{path}' is not an ontology: it has no term", todo="check the file")
    return terms
