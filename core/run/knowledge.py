"""The `knowledge` verb: builds a graph, counts and checks it, shows its concepts and what it makes of texts."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from core.data.captions import words
from core.files import atomic_write, cache_dir
from core.knowledge.coverage import coverage
from core.knowledge.graph import KnowledgeGraph
from core.knowledge.linking import Linker
from core.knowledge.load import Finding, check_graph, load_graph
from core.run.status import write_status
from core.run.tables import manifest_options, read_manifest
from core.types import Fate, UserError

SHOWN = 5  # findings of each kind, and lines of each list


def run(cfg: DictConfig, folder: Path) -> int:
    """Runs the verb.

    Args:
        cfg: ``knowledge.{path, prefix, aliases}``, ``query``, ``manifest``, ``manifest_options``, ``dry_run``.
        folder: of the run; receives ``findings.csv`` and ``status.csv``.

    Returns:
        0; findings about a graph are nothing that failed.

    Raises:
        UserError: no graph is given, it cannot be read or has a cycle, or the manifest or aliases are wrong.
    """
    paths = [str(path) for path in _listed(cfg.knowledge.path)]
    if not paths:
        raise UserError("there is no graph", "knowledge.path", "give an OBO, OBO-graph JSON or CSV file, or a list")
    graph = load_graph(paths, cfg.knowledge.prefix, cache_dir())
    findings = check_graph(graph)
    for name, value in {**graph.counts(), **_shape(graph)}.items():
        print(f"{name}: {value}")
    _print_findings(findings)
    if cfg.get("query") or cfg.get("manifest"):
        linker = Linker(graph, cfg.knowledge.aliases)
        if cfg.get("query"):
            _answer(str(cfg.query), graph, linker)
        if cfg.get("manifest"):
            _print_coverage(cfg, linker)
    if not cfg.dry_run:
        _write(folder / "findings.csv", findings)
        write_status(folder, [Fate(path, "ok") for path in paths])
    return 0


def describe_concept(graph: KnowledgeGraph, concept: int) -> list[str]:
    """A concept with its relatives, as ``name: value`` lines."""
    synonyms = zip(graph.synonyms[concept], graph.scopes[concept], strict=True)
    lines = [f"id: {graph.ids[concept]}", f"name: {graph.name(concept)}"]
    if graph.definitions[concept]:
        lines.append(f"definition: {graph.definitions[concept]}")
    lines += [f"synonym: {text} ({scope})" for text, scope in synonyms]
    lines += [f"parent: {_shown(graph, i)}" for i in graph.parents_of(concept).tolist()]
    lines += [f"child: {_shown(graph, i)}" for i in graph.children_of(concept).tolist()]
    # the nearest first
    ancestors = sorted(graph.ancestors_of(concept).tolist(), key=lambda i: graph.tree_distance(concept, i))
    return lines + [f"ancestor: {_shown(graph, i)}" for i in ancestors]


def _listed(value: str | ListConfig | None) -> list[str]:
    if isinstance(value, ListConfig):
        return list(OmegaConf.to_container(value, resolve=True))  # type: ignore[arg-type]
    return [value] if value else []


def _shape(graph: KnowledgeGraph) -> dict[str, int | str]:
    leaves, roots = set(graph.leaves()), set(graph.roots())
    return {
        "leaves": len(leaves),
        "isolated": len(leaves & roots),
        "depth": graph.depth(),
        "depth_shortest": int(graph.depths(longest=False).max()),
        "dangling_targets": len({target for _, target in graph.dangling}),
        "alternative_ids": len(graph.alternatives),
        "obsolete_terms": len(graph.retired),
        "hash": graph.hash,
    }


def _print_findings(findings: Sequence[Finding]) -> None:
    """The first of each kind by name, and how many there are."""
    for kind, count in Counter(finding.kind for finding in findings).items():
        print(f"{kind}: {count}")
        for finding in [finding for finding in findings if finding.kind == kind][:SHOWN]:
            print(f"  {' '.join(part for part in (finding.id, finding.name) if part)}: {finding.detail}")
        if count > SHOWN:
            print(f"  and {count - SHOWN} more in findings.csv")


def _answer(query: str, graph: KnowledgeGraph, linker: Linker) -> None:
    """The concept with this id or name, or else the concepts that the text mentions."""
    try:
        concept = graph.find(query)
    except UserError:
        mentions = linker.link(query)
        if not mentions and len(query.split()) == 1:  # an id, most likely
            raise
        print(f"mentions: {len(mentions)}")
        for mention in mentions:
            print(f"  [{mention.start}:{mention.end}] '{mention.text}': {_shown(graph, mention.concept)}")
        return
    for line in describe_concept(graph, concept):
        print(line)


def _print_coverage(cfg: DictConfig, linker: Linker) -> None:
    """How much of a manifest is linked: its captions, or its labels where it has none."""
    frame = read_manifest(Path(cfg.manifest), manifest_options(cfg)).frame
    texts = [text for captions in frame["captions"] for text in captions]
    texts = texts or [words(label) for label in frame["label"].dropna()]
    restricted = OmegaConf.select(cfg, "data.sharing") == "restricted"
    for line in coverage(texts, linker).lines(linker, 0 if restricted else SHOWN):
        print(line)


def _shown(graph: KnowledgeGraph, concept: int) -> str:
    return f"{graph.ids[concept]} {graph.name(concept)}"


def _write(path: Path, findings: Sequence[Finding]) -> None:
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("kind", "id", "name", "detail"))
        table.writerows((finding.kind, finding.id, finding.name, finding.detail) for finding in findings)
