"""Which slides make a bag, and which of them cannot be used and why: the decisions behind the data of bags."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from core.mil.bags import Bag
from core.mil.labels import FINDING, known
from core.types import UserError

Kind = tuple[int, str, str]  # width, encoder, unit: what the bags of one model have in common
S = TypeVar("S")
T = TypeVar("T")

ONE_BAG = 1.1  # tiles of the slides of one bag may differ by so much: magnifications do by 2
SAME_SCALE = 1.2  # tiles may differ so much from the usual one, since scanners of one magnification do


def rows_by_name(names: Iterable[str]) -> dict[str, list[int]]:
    """Rows of each name, names in the order of their first row."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return rows


def refuse_divided(groups: Sequence[str], splits: Sequence[str | None]) -> None:
    """Refuses groups (patients) in more than one split.

    Raises:
        UserError: naming them.
    """
    divided = [name for name, rows in rows_by_name(groups).items() if len({splits[row] for row in rows}) > 1]
    if divided:
        raise UserError(
            f"{len(divided)} groups (patients) are in more than one split: {', '.join(divided[:5])}",
            "column split",
            "put all slides of a patient into one split",
        )


def one_a_bag(column: str, values: np.ndarray, rows_of: Mapping[str, Sequence[int]]) -> np.ndarray:
    """The label of each bag: what its rows agree on; a row of unknown label follows the others.

    Raises:
        UserError: rows of a bag disagree.
    """
    there = known(values)
    chosen = []
    for name, rows in rows_of.items():
        told = [row for row in rows if there[row]]
        different = sorted({values[row].item() for row in told})
        if len(different) > 1:
            raise UserError(
                f"the slides of '{name}' have different values of {column}: {', '.join(map(str, different))}",
                f"column {column}",
                "give all slides of a patient the same, or make a bag of each slide",
            )
        chosen.append((told or rows)[0])
    return values[chosen]


def unlabelled(labels: Mapping[str, np.ndarray], bags: int) -> dict[int, str]:
    """Bags (by number) that lack a label, with the reason. Of several findings one known is enough."""
    findings = [column for column in labels if column.startswith(FINDING)]
    lacking = {f"{FINDING}*": np.full(bags, bool(findings))}
    for column, values in labels.items():
        if column in findings:
            lacking[f"{FINDING}*"] &= ~known(values)
        else:
            lacking[column] = ~known(values)
    return {int(bag): f"unknown {column}" for column, where in lacking.items() for bag in np.flatnonzero(where)}


def kind_of(bag: Bag) -> Kind:
    """What must be the same in all bags of a model."""
    return bag.features.shape[1], bag.encoder, bag.unit


def same_scale(one: float, other: float) -> bool:
    """Whether tiles of two sides (in one unit) were cut at one scale."""
    return max(one, other) <= SAME_SCALE * min(one, other)


def usual_size(sizes: Sequence[float]) -> float:
    """The side of a tile, among some [n > 0], that most of them share the scale of; of several the middle one."""
    ordered = np.sort(np.asarray(sizes, dtype=np.float64))
    first = np.searchsorted(ordered, ordered / SAME_SCALE, side="left")
    counts = np.searchsorted(ordered, ordered * SAME_SCALE, side="right") - first
    best = np.flatnonzero(counts == counts.max())
    return float(ordered[best[(len(best) - 1) // 2]])


def odd_ones(
    kinds: Mapping[int, Kind], sizes: Mapping[int, float], training: set[int]
) -> tuple[dict[int, str], float | None]:
    """Slides (by row) whose features are of another kind or scale than most of the training slides', with the reason.

    Args:
        kinds: of each slide. sizes: side of its tiles, in the unit of its kind.
        training: rows of the training slides.

    Returns:
        The reasons, and the usual side of a tile; None where there is no training slide.
    """
    counts = Counter(kind for row, kind in kinds.items() if row in training)
    if not counts:
        return {}, None
    usual = counts.most_common(1)[0][0]
    size = usual_size([sizes[row] for row, kind in kinds.items() if row in training and kind == usual])
    words = "width {}, encoder {}, coordinates in {}"
    reasons = {}
    for row, kind in kinds.items():
        if kind != usual:
            reasons[row] = f"features of {words.format(*kind)}; most training slides have {words.format(*usual)}"
        elif not same_scale(sizes[row], size):
            reasons[row] = (
                f"tiles of {sizes[row]:g} {kind[2]}; most training slides have tiles of {size:g} {kind[2]}: embed all "
                "slides at one scale"
            )
    return reasons, size


def joined(name: str, bags: Sequence[Bag]) -> Bag:
    """The tiles of several slides as one bag, slide after slide, each in its own frame.

    Raises:
        UserError: the slides were cut at different scales.
    """
    sizes = [bag.tile_size for bag in bags]
    if max(sizes) > ONE_BAG * min(sizes):
        raise UserError(
            f"the slides of '{name}' have tiles of {min(sizes):g} to {max(sizes):g} {bags[0].unit}",
            todo="embed them at one scale",
        )
    if len(bags) == 1:  # checked when it was read: every new Bag looks at all of its features again
        return bags[0] if bags[0].id == name else replace(bags[0], id=name)
    features = np.concatenate([bag.features for bag in bags])
    return replace(bags[0], id=name, features=features, coordinates=np.concatenate([bag.coordinates for bag in bags]))


def read_ahead(function: Callable[[S], T], items: Sequence[S], threads: int) -> Iterator[T]:
    """``function`` of each item, in order, as many ahead as there are threads (results are large); 0: none ahead."""
    if threads < 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
