"""Asking an index: the nearest tiles of a vector, among some slides, and how many of them exact search would give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from core.data.sharing import RESTRICTED
from core.search.index import PREFIX, Index
from core.search.shards import Shard, best
from core.types import UserError

if TYPE_CHECKING:
    import pandas as pd

RANKED = 32  # candidates by code, for each tile wanted, that are ranked by their vectors
SAME = 1e-6  # cosines nearer than this are equal: of identical tiles either may be found


def select(index: Index, where: Mapping[str, Any]) -> np.ndarray:
    """Which slides a filter leaves, bool [slides].

    Args:
        index: an index.
        where: by column of the manifest (or ``slide``) the wanted value, or a list of wanted values; compared as
            text, numbers as numbers. Every column must fit.

    Raises:
        UserError: there is no such column, or no slide is left.
    """
    chosen = np.ones(len(index.slides), bool)
    for name, value in where.items():
        column = "slide" if name == "slide" else PREFIX + name
        if column not in index.slides:
            known = ["slide", *(text.removeprefix(PREFIX) for text in index.columns)]
            raise UserError(f"the index has no column '{name}'", "search.where",
                            f"choose from {', '.join(known)}, or give the manifest= that has it")  # fmt: skip
        wanted = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        chosen &= (
            index.slides[column].map(lambda own, wanted=wanted: any(_equal(own, one) for one in wanted)).to_numpy(bool)
        )
    if not chosen.any():
        told = index.slides[index.slides["sharing"] != RESTRICTED]
        shown = {name: told["slide" if name == "slide" else PREFIX + name].dropna().unique()[:5].tolist()
                 for name in where}  # fmt: skip
        raise UserError(f"no slide of the index fits {dict(where)}", "search.where", f"values are such as {shown}")
    return chosen


def nearest(
    index: Index, queries: np.ndarray, count: int, chosen: np.ndarray | None = None, exact: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest tiles of each query over all shards.

    All tiles are compared by their codes, the nearest of them by their vectors (:mod:`core.search.shards`).

    Args:
        index: an index with at least one slide.
        queries: float32 [Q, D] unit vectors.
        count: nearest tiles wanted of each.
        chosen: bool [slides] of :func:`select`; None: all slides.
        exact: compares all tiles by their vectors.

    Returns:
        Cosines float32 [Q, count] in falling order; and tiles int64 [Q, count, 2], the number of the shard in
        ``index.shards`` and the row in it; -inf and -1 where there are no more.
    """
    wanted = count if exact else RANKED * count
    cosines = np.full((len(queries), count), -np.inf, np.float32)
    tiles = np.full((len(queries), count, 2), -1, np.int64)
    for number, (shard, ranges) in enumerate(_ranges(index, chosen)):
        if ranges:
            own, rows = (shard.exact if exact else shard.candidates)(queries, wanted, ranges)
            own_tiles = np.stack([np.full_like(rows, number), rows], -1)
            cosines, tiles = best(np.hstack([cosines, own]), np.hstack([tiles, own_tiles]), wanted)
    if not exact:
        for number, shard in enumerate(index.shards.values()):
            mine = (tiles[..., 0] == number).nonzero()
            cosines[mine] = shard.cosines(queries[mine[0]], tiles[(*mine, 1)])
    return best(cosines, tiles, count)


def recall(found: np.ndarray, exact: np.ndarray, count: int = 10) -> float:
    """Share of the ``count`` nearest tiles of exact search that were found, mean over queries.

    Args:
        found: cosines [Q, >= count] of :func:`nearest` in falling order.
        exact: the same of exact search.
    """
    shares = []
    for own, true in zip(found[:, :count], exact[:, :count], strict=True):
        there = np.isfinite(true)
        if there.any():  # a tile as near as the last exact one is as good an answer
            shares.append(min(1.0, float((own >= true[there][-1] - SAME).sum()) / there.sum()))
    return float(np.mean(shares)) if shares else float("nan")


def hits(
    index: Index, query: np.ndarray, count: int, chosen: np.ndarray | None = None, per_slide: int | None = None
) -> pd.DataFrame:
    """The nearest tiles of one query as a table, best first.

    Args:
        index: an index with at least one slide.
        query: float32 [D] unit vector.
        count: rows wanted.
        chosen: bool [slides] of :func:`select`; None: all slides.
        per_slide: at most so many tiles of a slide; None: any number.

    Returns:
        Columns ``rank`` (from 1), ``similarity`` (cosine), ``slide``, ``x``, ``y``, ``w``, ``h`` (level-0 pixels), the
        columns of the manifest, ``path`` (of the slide's file, None where it is not known), ``sharing`` (of the slide).
    """
    wanted = count
    while True:
        cosines, tiles = nearest(index, query[None], wanted, chosen)
        there = np.isfinite(cosines[0])
        table = _table(index, cosines[0][there], tiles[0][there])
        if per_slide is not None:
            table = table[table.groupby("slide").cumcount() < per_slide]
        if len(table) >= count or not there.all():
            table = table.head(count).reset_index(drop=True)
            table.insert(0, "rank", np.arange(1, len(table) + 1))
            return table
        wanted *= 4


def _ranges(index: Index, chosen: np.ndarray | None) -> Iterator[tuple[Shard, list[tuple[int, int]]]]:
    """Every shard, with the rows of it that may be found: (first, last + 1) of each run of them."""
    slides = index.slides if chosen is None else index.slides[chosen]
    used = {str(name): rows.sort_values("first") for name, rows in slides.groupby("shard")}
    for name, shard in index.shards.items():
        ranges: list[tuple[int, int]] = []
        if name in used:
            for first, count in used[name][["first", "tiles"]].to_numpy().tolist():
                joins = bool(ranges) and ranges[-1][1] == first
                ranges.append((ranges.pop()[0] if joins else first, first + count))
        yield shard, ranges


def _table(index: Index, cosines: np.ndarray, tiles: np.ndarray) -> pd.DataFrame:
    """Slide, place and metadata of found tiles."""
    import pandas as pd

    names = list(index.shards)
    slides = index.slides
    rows, corners = np.zeros(len(tiles), np.int64), np.zeros((len(tiles), 2), np.int64)
    for number in np.unique(tiles[:, 0]):
        mine = tiles[:, 0] == number
        of_shard = slides.index[slides["shard"] == names[number]].to_numpy()
        of_shard = of_shard[np.argsort(slides["first"].to_numpy()[of_shard])]
        firsts = slides["first"].to_numpy()[of_shard]
        rows[mine] = of_shard[np.searchsorted(firsts, tiles[mine, 1], side="right") - 1]
        corners[mine] = index.corners(names[number])[tiles[mine, 1]]
    found = slides.iloc[rows].reset_index(drop=True)
    place = pd.DataFrame({"similarity": cosines, "slide": found["slide"], "x": corners[:, 0], "y": corners[:, 1],
                          "w": found["width"], "h": found["height"]})  # fmt: skip
    said = {name: name.removeprefix(PREFIX) for name in index.columns}
    return place.join(found[list(said)].rename(columns=said)).assign(path=found["path"], sharing=found["sharing"])


def _equal(own: Any, wanted: Any) -> bool:
    if own is None or own != own:  # missing
        return False
    if isinstance(own, int | float) and not isinstance(own, bool):
        try:
            return float(own) == float(wanted)
        except (TypeError, ValueError):
            return False
    return str(own) == str(wanted)
