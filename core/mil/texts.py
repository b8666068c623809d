"""What is written of bags: captions to learn from, a text to read together with a bag, concepts they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from core.data.texts import Texts

if TYPE_CHECKING:
    from core.knowledge.graph import KnowledgeGraph
    from core.mil.data import BagBatch


@dataclass(frozen=True)
class Entry:
    """One of the vocabulary that bags are asked about."""

    name: str
    concept: str  # its id in the graph; "" where captions are asked
    text: str  # what is asked


@dataclass(frozen=True)
class BagTexts:
    """Texts of all bags of a manifest, known by their numbers: the order of their first row."""

    drawn: Texts  # captions and targets of a step; its samples are bags
    captions: Sequence[Sequence[str]]  # of each bag, those of its slides together
    concepts: Sequence[frozenset[int]]  # of each bag, in ``graph``; empty without one
    graph: KnowledgeGraph | None
    context: Sequence[str] | None  # of each bag, "" where nothing is written; None: bags are seen alone

    def spoken(self, batch: BagBatch, shares: Sequence[np.ndarray], rank: int) -> BagBatch:
        """The batch of a rank with its texts, and with the targets of the whole batch.

        Args:
            batch: bags alone.
            shares: numbers of the bags of every rank.
            rank: whose batch it is; its bags are ``shares[rank]``, in that order.
        """
        tokens, owner = self.drawn.draw(batch.step, shares[rank])
        splits = tuple(accumulate((len(share) for share in shares), initial=0))
        targets = self.drawn.targets(np.concatenate(shares), splits)
        return replace(batch, tokens=tokens, owner=owner, targets=targets, context=self.read(shares[rank]))

    def read(self, bags: np.ndarray) -> Tensor | None:
        """Tokens [n, L] of what is read together with some bags; None where bags are seen alone."""
        if self.context is None:
            return None
        return self.drawn.tokenize([self.context[int(bag)] for bag in bags])
