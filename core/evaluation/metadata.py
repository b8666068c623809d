"""What the file's own columns say about the class without a look at a picture: the control for shortcuts.

A site, a scanner or a year that predicts the class is a shortcut any image model may take; a figure that does not clear
this one says nothing about images (cf. Howard et al. 2021 on site signatures in TCGA).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.evaluation.cohort import Controls
from core.evaluation.probe import probe
from core.evaluation.subject import Subject
from core.types import Evaluation


@dataclass(frozen=True)
class Metadata:
    """Logistic regression on manifest columns, as ``floor_metadata``; nothing where they are absent or constant.

    ``resolution`` (whatever the table calls it) is a number and ``date`` a year with its fraction; a missing one is the
    mean of training. Everything else is a name, one-hot, also where names look like numbers; those that training lacks
    are all zero.
    """

    columns: Sequence[str] = ("site", "view", "date", "resolution")

    def __call__(self, subject: Subject, controls: Controls, /) -> list[Evaluation]:
        test, train = subject.test.labelled(), subject.train
        if subject.classes is None or not len(test.rows):
            return []
        frame = subject.data.manifest.frame
        features = encode(frame, [name for name in self.columns if name in frame], train.rows)
        if not features.shape[1]:
            return []
        cohort = subject.cohort(test.rows)
        labels = train.labels, features[test.rows], test.labels
        return [probe(features[train.rows], *labels, subject.classes, cohort, name="floor_metadata")]


def encode(frame: pd.DataFrame, columns: Sequence[str], train: np.ndarray) -> npt.NDArray[np.float64]:
    """Features [N, F] of all rows; what varies is learned from the training rows alone."""
    parts: list[npt.NDArray[np.float64]] = []
    for name in columns:
        if name in ("resolution", "date"):
            numbers = _years(frame[name]) if name == "date" else frame[name].to_numpy(np.float64)
            if np.isfinite(numbers[train]).any():
                parts.append(np.where(np.isfinite(numbers), numbers, np.nanmean(numbers[train]))[:, None])
        else:
            texts = frame[name].astype("string").fillna("").to_numpy(str)
            parts.append((texts[:, None] == np.unique(texts[train])[None, :]).astype(np.float64))
    features = np.concatenate([np.zeros((len(frame), 0)), *parts], axis=1)
    varies = np.ptp(features[train], axis=0) > 0 if len(train) else np.zeros(features.shape[1], bool)
    return features[:, varies]


def _years(dates: pd.Series) -> npt.NDArray[np.float64]:
    """Dates as years with a fraction; NaN for what is no date."""
    stamps = pd.to_datetime(dates, errors="coerce", utc=True).dt
    years = stamps.year + (stamps.day_of_year - 1) / 366
    return np.asarray(years.to_numpy(np.float64, na_value=np.nan), dtype=np.float64)
