"""What both survival tasks share: follow-up times with their events, checked once, and a risk."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.mil.tasks.task import BagTask, label
from core.types import UserError

if TYPE_CHECKING:
    from core.mil.data import BagBatch

TIME, EVENT = "time", "event"  # columns: follow-up in any one unit; 1 the event happened then, 0 censored


class SurvivalTask(BagTask):
    """A task on columns ``time`` (finite, not negative) and ``event`` (1 or 0)."""

    def prepare(self, labels: Mapping[str, npt.ArrayLike], ids: Sequence[str], patients: Sequence[str]) -> None:
        one_a_patient(labels, ids, patients)

    @abstractmethod
    def risk(self, predictions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """One number a bag from what ``predict`` gave, [B]: the higher, the sooner the event is expected."""

    def comparable(self, predictions: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The risk: bins of time differ between folds."""
        return self.risk(predictions).reshape(-1, 1).astype(np.float64)

    def readable(self, shares: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Of several bins, the mean: how much a tile raises the log-odds of the event in all of them."""
        means: npt.NDArray[np.float32] = shares.mean(axis=1, keepdims=True)
        return means

    def score_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        return ("risk",)

    def outcome_names(self, classes: Sequence[str]) -> tuple[str, ...]:
        return ("risk",)


def follow_up(batch: BagBatch) -> tuple[Tensor, Tensor]:
    """Times [b] float64, since float32 could tie two that differ, and events [b] bool."""
    return label(batch, TIME).to(torch.float64), label(batch, EVENT) > 0


def one_a_patient(
    labels: Mapping[str, npt.ArrayLike], ids: Sequence[str], patients: Sequence[str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Times [P] and events [P] of the P patients of these bags.

    Raises:
        UserError: a column or value is missing or impossible, a patient's bags disagree, or nobody had the event.
    """
    for column in (TIME, EVENT):
        if column not in labels:
            raise UserError(f"the training bags have no column '{column}'", "bag_task", f"name it: {TIME} and {EVENT}")
    time, event = (np.asarray(labels[column], dtype=np.float64) for column in (TIME, EVENT))
    for column, wrong, wanted in (
        (TIME, ~(np.isfinite(time) & (time >= 0)), "a finite number, not negative"),
        (EVENT, ~np.isin(event, (0.0, 1.0)), "1 (it happened) or 0 (censored)"),
    ):
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            value = time[first] if column == TIME else event[first]
            raise UserError(
                f"{column} of bag '{ids[first]}' is {value} ({int(wrong.sum())} such bags)",
                f"column {column}",
                f"use {wanted}, or leave these bags out",
            )
    seen: dict[str, tuple[float, float]] = {}
    for patient, *pair in zip(patients, time.tolist(), event.tolist(), strict=True):
        if seen.setdefault(patient, (pair[0], pair[1])) != (pair[0], pair[1]):
            raise UserError(
                f"bags of '{patient}' have different follow-up: {seen[patient]} and {tuple(pair)}",
                f"columns {TIME}, {EVENT}",
                "give every bag of a patient the same",
            )
    table = np.array(list(seen.values())).reshape(-1, 2)
    if not table[:, 1].any():
        raise UserError("no training patient had the event", f"column {EVENT}", "check the split and the column")
    return table[:, 0], table[:, 1] > 0
