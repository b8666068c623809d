"""What evaluators of bags are given: a trained task over bags, and its data; each split is predicted once."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from core.evaluation.bag_controls import mean_of_instances
from core.evaluation.bags import Predicted
from core.evaluation.cohort import Classes, Cohort
from core.evaluation.metrics import FloatArray

if TYPE_CHECKING:
    from core.mil.data import BagDataModule
    from core.mil.tasks.task import BagTask


class BagSubject:
    """One task and its data. An evaluator of bags is a callable ``(BagSubject) -> Sequence[Evaluation]``.

    Args:
        task: trained.
        data: prepared.
        names: of the classes, in the order of their numbers; empty for tasks without.
        name: what a bag is called in figures.
        unit: what the independent unit is called, of which a bag may be one among several.
        note: shown with every figure.
        rare_share: a class below this share of the training bags is rare.
    """

    def __init__(
        self,
        task: BagTask,
        data: BagDataModule,
        names: tuple[str, ...],
        name: str,
        unit: str,
        note: str,
        rare_share: float,
    ) -> None:
        self.task, self.data, self.names, self.name, self.unit = task, data, names, name, unit
        self.note, self.rare_share = note, rare_share
        self.means = cache(self._means)  # by split
        self.values = cache(self._values)

    def classes(self, column: str = "label") -> Classes:
        """The classes with their numbers of training bags."""
        known = self.data.labels("train")[column]
        counts = np.bincount(known[known >= 0], minlength=len(self.names)).astype(np.int64)
        return Classes(self.names, counts, None, self.rare_share)

    def cohort(self, split: str = "test") -> Cohort:
        """Bags of a split and the units they belong to."""
        return Cohort(self.data.ids(split), self.data.units(split), self.unit, self.note)

    def predicted(self, values: FloatArray | None = None, split: str = "test") -> Predicted:
        """What the task says of a split, or what a control says of it."""
        chosen = self.values(split) if values is None else values
        return Predicted(chosen, self.data.labels(split), self.cohort(split))

    def _values(self, split: str) -> FloatArray:
        """``task.predict`` of every bag of a split, [N] or [N, K] float64."""
        parts = [self.task.predict(pack) for pack in self.data.eval_bags(split)]
        return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)

    def _means(self, split: str) -> FloatArray:
        """Mean feature of every bag of a split, [N, D] float64."""
        return mean_of_instances(self.data.bag(name) for name in self.data.ids(split))
