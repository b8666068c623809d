"""How fast graphs compile, load and relate: ``python -m tests.benchmarks.knowledge``.

``relation_ms`` is the time to relate the concept sets of a batch of 4,096 samples with three concepts each, drawn from
the graph with probability 1 / rank (Zipf's law; ranks dealt to concepts at random), median of 7 batches.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from core.knowledge.graph import KnowledgeGraph
from core.knowledge.load import load_graph
from core.knowledge.relations import ConceptSets, RelationTable

DATA = Path(os.environ.get("TRIVIUM_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
DOID = DATA / "knowledge_graph" / "doid-2024-01-31.obo.gz"
BATCH, CONCEPTS, ROUNDS = 4096, 3, 7
TERMS, PARENTS = 11_501, (0.63, 0.35, 0.02)  # size of DOID 2024; shares of terms with 1, 2 and 3 parents


def main() -> None:
    """Prints ``name: value`` lines."""
    import obonet  # noqa: F401  # no figure counts imports

    with tempfile.TemporaryDirectory() as folder:
        path = DOID
        if not path.is_file():
            print(f"note: no data at {DOID}; a generated graph of the same size stands in for it")
            path = generated(Path(folder) / "generated.obo")
        start = time.perf_counter()
        graph = load_graph(path, cache=Path(folder))
        print(f"compile_s: {time.perf_counter() - start:.3f}")
        loads = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            again = load_graph(path, cache=Path(folder))
            loads.append(time.perf_counter() - start)
        if again != graph:
            raise SystemExit("the cache gave another graph")
        print(f"cached_load_s: {statistics.median(loads):.4f}")
    relations(graph)


def relations(graph: KnowledgeGraph) -> None:
    """Relates the sets of some batches of a manifest."""
    rng = np.random.default_rng(0)
    chance = 1 / np.arange(1, len(graph) + 1)
    drawn = rng.choice(rng.permutation(len(graph)), (ROUNDS * BATCH, CONCEPTS), p=chance / chance.sum())
    sets = ConceptSets.intern([frozenset(row) for row in drawn.tolist()])
    start = time.perf_counter()
    table = RelationTable(graph, sets)
    print(f"relation_table_s: {time.perf_counter() - start:.3f}")
    times, stored = [], []
    for number in range(ROUNDS):
        unique = np.unique(sets.set_id[number * BATCH : (number + 1) * BATCH])
        start = time.perf_counter()
        _, indices, _ = table.codes(unique)
        times.append(1000 * (time.perf_counter() - start))
        stored.append(len(indices) / len(unique) ** 2)
    print(f"unique_sets: {len(unique)}")
    print(f"related_share: {statistics.median(stored):.3f}")
    print(f"relation_ms: {statistics.median(times):.1f}")


def generated(path: Path) -> Path:
    """An OBO file of DOID's size whose terms have earlier terms as parents."""
    rng = np.random.default_rng(0)
    lines = ["format-version: 1.2"]
    for term in range(TERMS):
        lines += ["", "[Term]", f"id: GEN:{term:05d}", f"name: generated disease {term}"]
        lines += [f'def: "Disease {term} of a generated graph of the size of DOID." []']
        lines += [f'synonym: "synonym {number} of {term}" EXACT []' for number in range(rng.integers(4))]
        if term:
            count = min(term, 1 + int(rng.choice(3, p=PARENTS)))
            # parents among the first third of the terms before: about as deep as DOID
            above = rng.choice(max(term // 3, count), count, replace=False)
            lines += [f"is_a: GEN:{parent:05d}" for parent in sorted(above.tolist())]
    path.write_text("\n".join(lines) + "\n")
    return path


if __name__ == "__main__":
    main()
