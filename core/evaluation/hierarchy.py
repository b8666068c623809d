"""Where the classes sit in a tree or graph: which share a parent, and how many edges apart they are."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.types import UserError


class Graph(Protocol):
    """What is needed of a ``core.knowledge`` graph."""

    def parents_of(self, i: int, /) -> Sequence[int] | npt.NDArray[np.integer]:
        """Direct parents of a concept."""

    def ancestors_of(self, i: int, /) -> Sequence[int] | npt.NDArray[np.integer]:
        """All proper ancestors of a concept."""


@dataclass(frozen=True)
class Hierarchy:
    """Relations between C classes, in the order of ``class_names``."""

    class_names: tuple[str, ...]
    siblings: npt.NDArray[np.bool_]  # [C, C] True where two classes have a parent in common (and on the diagonal)
    distance: npt.NDArray[np.int64]  # [C, C] edges by way of the nearest common ancestor; trees meet in one root
    parents: tuple[tuple[str, ...], ...]  # names of each class's direct parents, for people
    source: str = ""  # file or graph it came from

    @classmethod
    def from_graph(
        cls, graph: Graph, concepts: Sequence[int], class_names: Sequence[str], source: str = ""
    ) -> Hierarchy:
        """Places each class at a concept of a knowledge graph (a directed acyclic graph is allowed)."""
        links: dict[str, tuple[str, ...]] = {}
        for concept in concepts:
            for node in (int(concept), *(int(a) for a in graph.ancestors_of(int(concept)))):
                links[str(node)] = tuple(str(int(parent)) for parent in graph.parents_of(node))
        name = getattr(graph, "name", None)
        shown = {node: str(name(int(node))) for node in links} if callable(name) else {}
        return _build(links, [str(int(c)) for c in concepts], class_names, shown, source)

    @classmethod
    def from_csv(cls, path: str | Path, class_names: Sequence[str]) -> Hierarchy:
        """Reads a table ``label,parent``; a parent may be a label of another row, which makes deeper trees.

        Raises:
            UserError: no such columns, a class without a row, or a cycle; with the file and the row.
        """
        links: dict[str, tuple[str, ...]] = {}
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            if not {"label", "parent"} <= set(table.fieldnames or ()):
                raise UserError(f"columns are {table.fieldnames}, expected label and parent", str(path))
            for row in table:
                label, parent = (row["label"] or "").strip(), (row["parent"] or "").strip()
                if not label:
                    raise UserError("a row has no label", f"{path}, line {table.line_num}")
                links[label] = (*links.get(label, ()), *((parent,) if parent else ()))
        missing = [name for name in class_names if name not in links]
        if missing:
            raise UserError(
                f"no parent is given for {', '.join(missing)}", str(path), "add a row label,parent for each class"
            )
        for parents in list(links.values()):
            for parent in parents:
                links.setdefault(parent, ())
        for label in links:
            _climb(label, links, str(path))  # a cycle anywhere in the table is refused
        return _build(links, list(class_names), class_names, {}, str(path))

    def chance_distance(self) -> npt.NDArray[np.float64]:
        """Mean distance from each class to the other classes, [C]: what a blind wrong guess would be off by."""
        others = max(len(self.class_names) - 1, 1)
        mean: npt.NDArray[np.float64] = self.distance.sum(axis=1) / others
        return mean


def _build(
    links: dict[str, tuple[str, ...]],
    nodes: Sequence[str],
    class_names: Sequence[str],
    shown: dict[str, str],
    source: str,
) -> Hierarchy:
    """Distances by breadth-first climbs: few classes, so clarity beats speed."""
    above = [_climb(node, links, source) for node in nodes]
    count = len(nodes)
    distance = np.zeros((count, count), dtype=np.int64)
    siblings = np.eye(count, dtype=bool)
    for i in range(count):
        for j in range(count):
            if nodes[i] == nodes[j]:
                siblings[i, j] = True
                continue
            distance[i, j] = min(above[i][node] + above[j][node] for node in above[i].keys() & above[j].keys())
            siblings[i, j] = bool(set(links[nodes[i]]) & set(links[nodes[j]]))
    parents = tuple(tuple(shown.get(parent, parent) for parent in links[node]) for node in nodes)
    return Hierarchy(tuple(class_names), siblings, distance, parents, source)


def _climb(node: str, links: dict[str, tuple[str, ...]], source: str) -> dict[str, int]:
    """Edges from a node up to each of its ancestors (itself 0); the common root of all trees is ``""``."""
    steps, frontier, climbed = {node: 0}, [node], 0
    while frontier:
        climbed += 1
        higher = []
        for below in frontier:
            for parent in links.get(below, ()) or (("",) if below else ()):
                if parent == node:
                    raise UserError(f"'{node}' is its own ancestor", source, "remove the cycle")
                if parent not in steps:
                    steps[parent] = climbed
                    higher.append(parent)
        frontier = higher
    return steps
