"""Linear probe on embeddings, and the floors that any embedding has to beat: colour and HOG features.

The floors are those of the data's notes: *colour6* is the mean and standard deviation of R, G and B in 0-1; *hog128*
is the HOG of the grey tile at 64 px (8 orientations, cells of 16 px, blocks of one cell; Dalal and Triggs 2005). The
model is StandardScaler and LogisticRegression(C=1) everywhere, so nothing is tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from core.evaluation.classification import classification
from core.evaluation.cohort import Classes, Cohort, Controls
from core.evaluation.subject import Subject
from core.types import Evaluation

FloatArray = npt.NDArray[np.float64]


class Probe:
    """Logistic regression on the features before the projection, as ``probe``."""

    def __call__(self, subject: Subject, controls: Controls, /) -> list[Evaluation]:
        test, train = subject.test.labelled(), subject.train
        if subject.classes is None or not len(test.rows):
            return []
        labels = train.labels, test.features, test.labels
        return [probe(train.features, *labels, subject.classes, subject.cohort(test.rows), controls)]


class SimpleFeatures:
    """The two floors, ``floor_colour6`` and ``floor_colour6_hog128``."""

    def __call__(self, subject: Subject, controls: Controls, /) -> list[Evaluation]:
        test, train = subject.test.labelled(), subject.train
        if subject.classes is None or not len(test.rows):
            return []
        pictures = subject.pictures(train.rows), train.labels, subject.pictures(test.rows), test.labels
        return floors(*pictures, subject.classes, subject.cohort(test.rows))


def fit_predict(train: npt.ArrayLike, labels: npt.ArrayLike, test: npt.ArrayLike, classes: int) -> FloatArray:
    """What :func:`fit` says of ``test`` [M, F], [M, classes]."""
    return fit(train, labels, classes)(test)


def fit(train: npt.ArrayLike, labels: npt.ArrayLike, classes: int) -> Callable[[npt.ArrayLike], FloatArray]:
    """A logistic regression on standardised features: features [M, F] -> probabilities [M, classes].

    Args:
        train: [N, F] features.
        labels: [N] int in [0, classes); a class that training lacks gets probability 0.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    truth = np.asarray(labels, dtype=np.int64)
    present = np.unique(truth)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    if len(present) > 1:  # else there is nothing to separate
        model.fit(np.asarray(train, dtype=np.float64), truth)

    def predict(test: npt.ArrayLike) -> FloatArray:
        features = np.asarray(test, dtype=np.float64)
        probabilities = np.zeros((len(features), classes))
        probabilities[:, present] = model.predict_proba(features) if len(present) > 1 else 1.0
        return probabilities

    return predict


def probe(
    train: npt.ArrayLike,
    train_labels: npt.ArrayLike,
    test: npt.ArrayLike,
    test_labels: npt.ArrayLike,
    classes: Classes,
    cohort: Cohort,
    controls: Controls | None = None,
    name: str = "probe",
) -> Evaluation:
    """Figures of the logistic regression trained on ``train`` [N, F] and applied to the cohort, ``test`` [M, F]."""
    probabilities = fit_predict(train, train_labels, test, len(classes.names))
    width = int(np.asarray(train).shape[1])
    details = {"features": width, "train_items": len(np.asarray(train_labels))}
    return classification(name, probabilities, test_labels, classes, cohort, controls, details)


def floors(
    train_images: Iterable[npt.NDArray[np.uint8]],
    train_labels: npt.ArrayLike,
    test_images: Iterable[npt.NDArray[np.uint8]],
    test_labels: npt.ArrayLike,
    classes: Classes,
    cohort: Cohort,
) -> list[Evaluation]:
    """The two floors as evaluations of their own, ``floor_colour6`` and ``floor_colour6_hog128``."""
    train, test = simple_features(train_images), simple_features(test_images)
    return [
        probe(
            np.concatenate([train[part] for part in parts], axis=1),
            train_labels,
            np.concatenate([test[part] for part in parts], axis=1),
            test_labels,
            classes,
            cohort,
            name="floor_" + "_".join(parts),
        )
        for parts in (("colour6",), ("colour6", "hog128"))
    ]


def simple_features(images: Iterable[npt.NDArray[Any]]) -> Mapping[str, FloatArray]:
    """``colour6`` [N, 6] and ``hog128`` [N, 128] of uint8 images, each [3, H, W] or [H, W, 3]."""
    both = [(colour6(image), hog128(image)) for image in map(_channels_last, images)]
    return {"colour6": np.stack([colour for colour, _ in both]), "hog128": np.stack([hog for _, hog in both])}


def colour6(image: npt.NDArray[np.uint8]) -> FloatArray:
    """Mean of R, G, B, then their standard deviations, in 0-1; image [H, W, 3] uint8."""
    pixels = image.reshape(-1, 3).astype(np.float64) / 255.0
    return np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)])


def hog128(image: npt.NDArray[np.uint8]) -> FloatArray:
    """HOG [128] of the grey image (ITU-R 601 luma) resized to 64 px; image [H, W, 3] uint8."""
    from PIL import Image
    from skimage.feature import hog

    grey = np.asarray(Image.fromarray(image).convert("L").resize((64, 64), Image.Resampling.BILINEAR)) / 255.0
    return np.asarray(hog(grey, orientations=8, pixels_per_cell=(16, 16), cells_per_block=(1, 1)), dtype=np.float64)


def _channels_last(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if image.shape[0] == 3 and image.shape[-1] != 3:
        image = image.transpose(1, 2, 0)
    return np.ascontiguousarray(image, dtype=np.uint8)
