"""Claims about asking: codes find what exact search finds, filters hold, recall can fall."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from core.search import index as indexing
from core.search.index import Index, annotate, update
from core.search.query import hits, nearest, recall, select
from core.search.shards import CODED_TILES, best, unit
from core.types import UserError
from tests.core.search.files import write

SLIDES, TILES, WIDTH = 8, 3_000, 32


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, np.ndarray]:
    """Two shards with codes; tiles [slides, T, D] in clusters, as unit vectors that went through half precision."""
    folder = tmp_path_factory.mktemp("cohort")
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((30, WIDTH))
    tiles = 1 + centres[generator.integers(0, 30, (SLIDES, TILES))] + generator.standard_normal((SLIDES, TILES, WIDTH))
    for number, part in enumerate(tiles):
        write(folder / "features", f"s{number}", part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "SHARD_TILES", SLIDES * TILES // 2)
        index, _ = update(folder / "index", folder / "features")
    assert [len(shard) >= CODED_TILES for shard in index.shards.values()] == [True, True]
    said = pd.DataFrame({"site": list("AABBCCDD"), "stage": [1.0, 2.0] * 4}, index=[f"s{n}.svs" for n in range(SLIDES)])
    index = annotate(index, {}, said)
    return index, np.stack([unit(unit(part.astype(np.float16)).astype(np.float16)) for part in tiles])


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    """Half among the tiles, half on their other side, as texts are."""
    generator = np.random.default_rng(1)
    return unit(generator.standard_normal((20, WIDTH)) + np.repeat([[1.0], [-1.0]], 10, axis=0))


def brute(tiles: np.ndarray, query: np.ndarray, count: int, slides: list[int] | None = None) -> np.ndarray:
    """Cosines of the nearest tiles, falling."""
    chosen = tiles if slides is None else tiles[slides]
    return -np.sort(-(chosen.reshape(-1, WIDTH) @ query))[:count]


def test_exact_search_is_brute_force_and_codes_miss_next_to_nothing_of_it(cohort, queries: np.ndarray) -> None:
    index, tiles = cohort
    exact, places = nearest(index, queries, 10, exact=True)
    found, same = nearest(index, queries, 10)
    true = np.stack([brute(tiles, query, 10) for query in queries])
    np.testing.assert_allclose(exact, true, atol=2e-4)  # half precision
    assert (np.diff(found, axis=1) <= 0).all()
    assert recall(found, exact) >= 0.98
    agree = (places == same).all(2)
    np.testing.assert_allclose(found[agree], exact[agree], atol=1e-6)  # ranked by vectors, not by codes
    assert agree.mean() > 0.9


def test_recall_counts_what_was_missed_and_takes_equal_tiles_for_equal() -> None:
    exact = np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.5, 0.5, -np.inf]])
    assert recall(exact, exact, 4) == 1
    assert recall(np.array([[0.9, 0.8, 0.6, 0.5], [0.5, 0.5, 0.5, -np.inf]]), exact, 4) == pytest.approx((0.75 + 1) / 2)
    assert recall(np.array([[0.1] * 4, [0.2] * 4]), exact, 4) == 0


@pytest.mark.parametrize(
    ("where", "slides"),
    [({"site": "B"}, [2, 3]), ({"site": ["A", "D"], "stage": 1}, [0, 6]), ({"stage": "2.0"}, [1, 3, 5, 7]),
     ({"slide": "s4.svs"}, [4])],
)  # fmt: skip
def test_a_filter_leaves_the_nearest_tiles_of_its_slides(
    cohort, queries: np.ndarray, where: dict[str, object], slides: list[int]
) -> None:
    index, tiles = cohort
    chosen = select(index, where)
    assert [int(name[1]) for name in index.slides["slide"][chosen]] == slides
    shares = []
    for query in queries:
        table = hits(index, query, 15, chosen)
        assert set(table["slide"]) <= {f"s{number}.svs" for number in slides}
        shares.append((table["similarity"] > brute(tiles, query, 15, slides)[-1] - 3e-4).mean())
    assert np.mean(shares) >= 0.98


def test_a_filter_that_fits_nothing_or_names_no_column_is_refused_with_what_there_is(cohort) -> None:
    index, _ = cohort
    with pytest.raises(UserError, match=r"no column 'colour'.*slide, site, stage"):
        select(index, {"colour": "red"})
    with pytest.raises(UserError, match=r"no slide.*'A', 'B'"):
        select(index, {"site": "Z"})


def test_at_most_so_many_tiles_of_a_slide_are_shown_and_they_are_its_nearest(cohort, queries: np.ndarray) -> None:
    index, tiles = cohort
    for query in queries[:4]:
        table = hits(index, query, 12, per_slide=2)
        assert len(table) == 12
        assert table["slide"].value_counts().max() == 2
        assert table["rank"].tolist() == list(range(1, 13))
        assert table["similarity"].is_monotonic_decreasing
        for slide, rows in table.groupby("slide"):
            true = brute(tiles, query, 2, [int(str(slide)[1])])[: len(rows)]
            np.testing.assert_allclose(rows["similarity"], true, atol=3e-4)
    assert len(hits(index, queries[0], 100, per_slide=2)) == 2 * SLIDES


def test_more_tiles_than_there_are_gives_all_of_them(cohort, queries: np.ndarray) -> None:
    index, _ = cohort
    table = hits(index, queries[0], TILES + 10, select(index, {"slide": "s3.svs"}))
    assert len(table) == TILES
    assert not table[["x", "y"]].duplicated().any()
    assert table[["w", "h"]].drop_duplicates().to_numpy().tolist() == [[128.0, 256.0]]  # 64 um at 0.5 and 0.25
    assert table["site"].unique().tolist() == ["B"]


def test_the_best_are_the_largest_whatever_the_number() -> None:
    values = np.random.default_rng(3).permutation(1000).astype(np.float32).reshape(2, 500)
    tiles = np.stack([values, -values], -1).astype(np.int64)
    for count in (1, 7, 400, 600):
        cosines, places = best(values, tiles, count)
        np.testing.assert_array_equal(cosines, -np.sort(-values, axis=1)[:, :count])
        np.testing.assert_array_equal(places[..., 1], -cosines)
