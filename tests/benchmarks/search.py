"""How much of exact search an index finds: ``python -m tests.benchmarks.search`` prints ``name: value`` lines.

60,000 drawn tiles of 40 slides in three shards, 256 wide: clusters of very unequal size, each spread along a few
directions of its own, as embeddings are. Queries are tiles that are not in the index, and texts, which lie far from
every tile (the modality gap: Liang et al. 2022). Truth is a product in float32 outside of the index.

``search_recall_at_10`` is the lower of both means; ``search_recall_at_10_lists`` what an inverted file that reads an
eighth of its lists finds of the texts' tiles (why the index has no lists); ``search_exact_over_index`` the time of
exact search over that of a search, one query at a time, in turn, median.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np

from core.search import index as indexing
from core.search.index import Index
from core.search.query import nearest
from core.search.shards import unit
from tests.core.search.files import write

SLIDES, TILES, WIDTH, CLUSTERS, QUERIES = 40, 1_500, 256, 200, 200


def draw(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tiles [slides, T, D], queries by tile [Q, D] and by text [Q, D]; unit vectors."""
    centres = unit(generator.standard_normal((CLUSTERS, WIDTH)))
    spread = generator.standard_normal((CLUSTERS, 8, WIDTH)) / np.sqrt(WIDTH)
    share = generator.pareto(1.2, CLUSTERS) + 0.05
    gap = unit(generator.standard_normal((2, WIDTH)))  # where tiles, and where texts are

    def tiles(count: int) -> np.ndarray:
        which = generator.choice(CLUSTERS, count, p=share / share.sum())
        along = np.einsum("nk,nkd->nd", generator.standard_normal((count, 8)), spread[which])
        noise = generator.standard_normal((count, WIDTH)) / np.sqrt(WIDTH)
        return unit(gap[0] + centres[which] + 0.5 * along + 0.5 * noise)

    cohort = np.stack([tiles(TILES) for _ in range(SLIDES)])
    texts = unit(gap[1] + 0.7 * centres[generator.integers(0, CLUSTERS, QUERIES)]
                 + 0.3 * generator.standard_normal((QUERIES, WIDTH)) / np.sqrt(WIDTH))  # fmt: skip
    return cohort, tiles(QUERIES), texts


def recall(index: Index, cohort: np.ndarray, queries: np.ndarray) -> float:
    """Share of the ten nearest tiles, told by slide and row, that the index finds."""
    true = np.argpartition(-(queries @ cohort.reshape(-1, WIDTH).T), 10, axis=1)[:, :10]
    _, found = nearest(index, queries, 10)
    first = {number: index.slides[index.slides["shard"] == name].set_index("first").sort_index()["file"]
             for number, name in enumerate(index.shards)}  # fmt: skip
    rows = [[int(first[shard][row // TILES * TILES][:3]) * TILES + row % TILES for shard, row in pairs]
            for pairs in found.tolist()]  # fmt: skip
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, true, strict=True)]))


def recall_of_lists(cohort: np.ndarray, queries: np.ndarray) -> float:
    """The same of FAISS' inverted file with exact vectors."""
    vectors = cohort.reshape(-1, WIDTH).astype(np.float32)
    lists = round(2 * np.sqrt(len(vectors)))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(WIDTH), WIDTH, lists, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:: len(vectors) // (64 * lists) or 1])
    index.add(vectors)
    index.nprobe = lists // 8
    _, found = index.search(queries.astype(np.float32), 10)
    true = np.argpartition(-(queries @ vectors.T), 10, axis=1)[:, :10]
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, true, strict=True)]))


def main() -> None:
    """Measures and prints."""
    generator = np.random.default_rng(0)
    cohort, by_tile, by_text = draw(generator)
    indexing.SHARD_TILES = SLIDES * TILES // 3
    with tempfile.TemporaryDirectory() as folder:
        for number, vectors in enumerate(cohort):
            write(Path(folder), f"{number:03}", vectors)
        start = time.perf_counter()
        index, _ = indexing.update(Path(folder) / indexing.FOLDER, folder)
        print(f"search_build_seconds: {time.perf_counter() - start:.1f}")
        print(f"search_shards: {len(index.shards)}")
        recalls = {"tiles": recall(index, cohort, by_tile), "texts": recall(index, cohort, by_text)}
        for name, value in recalls.items():
            print(f"search_recall_at_10_{name}: {value:.4f}")
        print(f"search_recall_at_10: {min(recalls.values()):.4f}")
        print(f"search_recall_at_10_lists: {recall_of_lists(cohort, by_text):.4f}")
        ratios = []
        for query in np.concatenate([by_tile[:50], by_text[:50]]):
            times = []
            for exact in (False, True):
                start = time.perf_counter()
                nearest(index, query[None], 10, exact=exact)
                times.append(time.perf_counter() - start)
            ratios.append(times[1] / times[0])
        print(f"search_exact_over_index: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
