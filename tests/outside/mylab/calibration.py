"""An evaluator: is the model as sure of its answers as it is right?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from core.evaluation.cohort import Controls, make_evaluation
from core.evaluation.metrics import Metric
from core.evaluation.subject import Subject
from core.evaluation.zero_shot import softmax
from core.types import Evaluation


class Calibration:
    """Brier score of the zero-shot probabilities, summed over classes (0 is best, 2 is worst)."""

    def __call__(self, subject: Subject, controls: Controls, /) -> list[Evaluation]:
        test = subject.test.labelled()
        if subject.classes is None or not len(test.rows):
            return []
        logits = subject.model.scale * (test.embeddings @ subject.prompts.weights().T)
        truth = np.eye(len(subject.classes.names))[test.labels]
        cohort = subject.cohort(test.rows)
        items = pd.DataFrame(
            {"id": cohort.ids, "unit": cohort.units, "brier": ((softmax(logits) - truth) ** 2).sum(axis=1)}
        )
        shares = subject.classes.train_counts / subject.classes.train_counts.sum()
        base = {"base_rate": {"brier": float(((shares - truth) ** 2).sum(axis=1).mean())}}
        metric = Metric("calibration/brier", "mean", "brier", better="lower")
        return [make_evaluation("calibration", items, [metric], cohort, {**controls, **base})]
