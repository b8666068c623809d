"""Which instances a bag's class comes from, where a table knows it: area under the ROC curve within bags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from core.evaluation.bag_controls import NAME, fit_classes
from core.evaluation.bag_subject import BagSubject
from core.evaluation.cohort import make_evaluation
from core.evaluation.metrics import FloatArray, Metric, macro_auroc, point
from core.mil.bags import PackedBags
from core.mil.tasks.task import evaluating
from core.types import Evaluation, UserError

SCORES = ("attention", "contribution")


class InstancesOfBags:
    """How well attention, and contributions to the bag's own class, rank the instances that make a bag what it is.

    Each test bag with instances of both kinds gives one area, and a figure is the mean over these bags: attention is a
    share of its bag, so instances of different bags cannot be ranked with each other. The contribution is that to the
    score of the bag's class above the mean of the other classes'. Beside them stand chance and the linear model on the
    mean of the instances, asked of every instance alone.

    Args:
        table: CSV with a row an instance, in the order of the features.
        truth: its column with 1 for instances that make the class of their bag, and 0 for others.
        bag: its column that names the slide (or bag) of a row.
        column: label column of the task.
    """

    def __init__(self, table: str | Path, truth: str, bag: str = "bag", column: str = "label") -> None:
        self.column = column
        frame = pd.read_csv(
            table,
            usecols=lambda name: name in (bag, truth),
            dtype={bag: str},
            keep_default_na=False,  # a bag may be called NA
            na_values=[""],
        )
        missing = [name for name in (bag, truth) if name not in frame]
        if missing:
            raise UserError(f"the table of instances has no column '{missing[0]}'", str(table), "name another one")
        if not frame[truth].isin((0, 1)).all():
            raise UserError(f"column '{truth}' holds other values than 0 and 1", str(table), "correct it")
        self._truth = {name: rows.to_numpy(np.int64) for name, rows in frame.groupby(bag, sort=False)[truth]}

    def __call__(self, subject: BagSubject, /) -> list[Evaluation]:
        data = subject.data
        ids, units, labels = data.ids("test"), data.units("test"), data.labels("test")[self.column]
        truths = [self._of(subject, name) for name in ids]
        chosen = [b for b, truth in enumerate(truths) if len(np.unique(truth)) == 2 and labels[b] >= 0]
        if not chosen:
            print("left out: the instances of bags: no test bag has instances of both kinds")
            return []
        explained = [pair for pack in data.eval_bags("test") for pair in _explained(subject, pack)]
        linear = fit_classes(subject.means("train"), data.labels("train")[self.column], len(subject.names))
        rows = []
        for b in chosen:
            truth, own, (attention, contributions) = truths[b], int(labels[b]), explained[b]
            scores = {
                "attention": attention,
                "contribution": _above_others(contributions, own),
                NAME: linear(data.bag(ids[b]).features)[:, own],
            }
            areas = {f"{name}_auroc": _area(values, truth) for name, values in scores.items()}
            rows.append({"id": ids[b], "unit": units[b], "label": subject.names[own], "instances": len(truth),
                         "positive": int(truth.sum()), **areas})  # fmt: skip
        items = pd.DataFrame(rows)
        shorts = [f"{name}_auroc" for name in SCORES]
        controls = {
            "chance": dict.fromkeys(shorts, 0.5),
            NAME: dict.fromkeys(shorts, float(items[f"{NAME}_auroc"].mean())),
        }
        metrics = [Metric(f"instance/{short}", "mean", short) for short in shorts]
        return [make_evaluation("instance", items, metrics, subject.cohort(), controls)]

    def _of(self, subject: BagSubject, name: str) -> npt.NDArray[np.int64]:
        """What the table says of the instances of a bag, slide after slide; empty where it does not know the bag.

        Raises:
            UserError: the table has another number of instances than the features.
        """
        parts = []
        for slide, tiles in subject.data.slides(name):
            truth = self._truth.get(slide, np.zeros(0, np.int64))
            if len(truth) not in (0, tiles):
                raise UserError(f"the table of instances has {len(truth)} of '{slide}', its features {tiles}")
            parts.append(truth)
        return np.concatenate(parts)


def _explained(subject: BagSubject, pack: PackedBags) -> list[tuple[FloatArray, FloatArray]]:
    """Attention [n] (the mean of several columns) and contributions [n, K] of each bag of a pack."""
    task, ends = subject.task, pack.offsets[1:-1].tolist()
    with evaluating(task), torch.no_grad():
        weights = task.aggregator(pack).weights
    attention = weights.reshape(len(weights), -1).double().mean(dim=1).cpu().numpy()
    contributions = task.contributions(pack).astype(np.float64)
    return list(zip(np.split(attention, ends), np.split(contributions, ends), strict=True))


def _above_others(contributions: FloatArray, own: int) -> FloatArray:
    """[T, K] -> [T]: a score moves a softmax only by how far it moves from the others."""
    others = np.delete(contributions, own, axis=1)
    above: FloatArray = contributions[:, own] - others.mean(axis=1)
    return above


def _area(scores: FloatArray, truth: npt.NDArray[np.int64]) -> float:
    return point(macro_auroc(np.stack([-scores, scores], axis=1), truth), len(truth))
