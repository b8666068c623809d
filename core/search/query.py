"""Asking an index: the nearest tiles of a vector, among some slides, and how many of them exact search would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from core.search.index import PREFIX, Index
from core.types import UserError

if TYPE_CHECKING:
    import pandas as pd

FIRST_SHARE = 1 / 32  # of the lists of a shard that are read at first
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
            known = ["slide", *(text.removeprefix(PREFIX) for text in index.slides if text.startswith(PREFIX))]
            raise UserError(f"the index has no column '{name}'", "search.where",
                            f"choose from {', '.join(known)}, or give the manifest= that has it")  # fmt: skip
        wanted = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        chosen &= (
            index.slides[column].map(lambda own, wanted=wanted: any(_equal(own, one) for one in wanted)).to_numpy(bool)
        )
    if not chosen.any():
        shown = {name: index.slides["slide" if name == "slide" else PREFIX + name].dropna().unique()[:5].tolist()
                 for name in where}  # fmt: skip
        raise UserError(f"no slide of the index fits {dict(where)}", "search.where", f"values are such as {shown}")
    return chosen


def nearest(
    index: Index, queries: np.ndarray, count: int, chosen: np.ndarray | None = None, exact: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest tiles of each query over all shards.

    A small share of each shard's lists is read, then twice as many, until the nearest tiles no longer change: a query
    by text, which lies far from every tile, needs more lists than one by image.

    Args:
        index: an index with at least one slide.
        queries: float32 [Q, D] unit vectors.
        count: nearest tiles wanted of each.
        chosen: bool [slides] of :func:`select`; None: all slides.
        exact: reads every list.

    Returns:
        Cosines float32 [Q, count] in falling order; and tiles int64 [Q, count, 2], the number of the shard in
        ``index.shards`` and the row in it; -inf and -1 where there are no more.
    """
    share = 1.0 if exact else FIRST_SHARE
    cosines, tiles = _read(index, queries, count, chosen, share)
    open_ = np.arange(len(queries))  # queries whose answer may still change
    while share < 1 and len(open_):
        share = min(1.0, 2 * share)
        more, places = _read(index, queries[open_], count, chosen, share)
        moved = (more > cosines[open_] + SAME).any(1) | ~np.isfinite(more).all(1)
        cosines[open_], tiles[open_] = more, places
        open_ = open_[moved]
    return cosines, tiles


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
        columns of the manifest, ``path`` (of the slide's file, None where it is not known).
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


def _read(
    index: Index, queries: np.ndarray, count: int, chosen: np.ndarray | None, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest tiles among a share of each shard's lists."""
    cosines = np.full((len(queries), 0), -np.inf, np.float32)
    tiles = np.zeros((len(queries), 0, 2), np.int64)
    slides = index.slides if chosen is None else index.slides[chosen]
    used = slides.groupby("shard")
    for number, (name, shard) in enumerate(index.shards.items()):
        if name not in used.groups:
            continue
        rows = used.get_group(name)
        allowed = None
        if rows["tiles"].sum() < len(shard):  # filtered, or a slide of it is gone
            allowed = np.zeros(len(shard), bool)
            for first, size in zip(rows["first"], rows["tiles"], strict=True):
                allowed[first : first + size] = True
        own, places = shard.search(queries, count, share, allowed)
        places = np.stack([np.where(places < 0, -1, number), places], -1)
        cosines, tiles = np.concatenate([cosines, own], 1), np.concatenate([tiles, places], 1)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        cosines = np.take_along_axis(cosines, order, 1)
        tiles = np.take_along_axis(tiles, order[:, :, None], 1)
    return cosines, tiles


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
    columns = [name for name in found if name.startswith(PREFIX)]
    return place.join(found[columns].rename(columns=lambda name: name.removeprefix(PREFIX))).assign(path=found["path"])


def _equal(own: Any, wanted: Any) -> bool:
    if own is None or own != own:  # missing
        return False
    if isinstance(own, int | float) and not isinstance(own, bool):
        try:
            return float(own) == float(wanted)
        except (TypeError, ValueError):
            return False
    return str(own) == str(wanted)
