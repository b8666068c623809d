"""Which samples say the same thing: the groups that samplers draw and objectives treat as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten

import numpy as np
import numpy.typing as npt

from core.types import UserError

NAME_LENGTH = 60


@dataclass(frozen=True)
class Grouping:
    """Groups of N samples."""

    group: npt.NDArray[np.int64]  # [N] in [0, len(names)), numbered by first appearance
    names: tuple[str, ...]  # of each group: its first caption, shortened; its concepts where there is none
    ungrouped: tuple[int, ...]  # concepts too common to group anything, ascending

    def __len__(self) -> int:
        return len(self.names)


def group_captions(
    captions: Sequence[str], concepts: Sequence[frozenset[int]], max_share: float | None = 0.10
) -> Grouping:
    """Groups samples that mention exactly the same concepts, or, without any, have the same caption.

    Sharing *some* concepts makes no group (chains of them would join everything); the relations between concept sets
    tell an objective about those pairs.

    Args:
        captions: N texts; compared without case and spacing. "" is no caption: such a sample is alone.
        concepts: N sets.
        max_share: a concept in more than this share of the samples groups nothing; None: none is too common.

    Raises:
        UserError: ``max_share`` is not in (0, 1].
    """
    if max_share is None:
        max_share = 1.0
    if not 0 < max_share <= 1:
        raise UserError(f"knowledge.max_share is {max_share}; expected a share above 0 and at most 1")
    frequency = Counter(concept for found in concepts for concept in found)
    common = {concept for concept, count in frequency.items() if count > max_share * len(concepts)}
    numbers: dict[object, int] = {}
    names: list[str] = []
    group = np.empty(len(concepts), np.int64)
    for row, (caption, found) in enumerate(zip(captions, concepts, strict=True)):
        key: object = found - common or " ".join(caption.casefold().split()) or row
        if key not in numbers:
            numbers[key] = len(names)
            names.append(shorten(caption, NAME_LENGTH, placeholder="...") or f"concepts {sorted(found)}")
        group[row] = numbers[key]
    return Grouping(group, tuple(names), tuple(sorted(common)))
