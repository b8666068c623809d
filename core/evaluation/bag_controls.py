"""The control of every task over bags: a linear model on the mean of a bag's instances.

Features are standardised on the training bags and the penalty is ``|w|^2 / 2`` beside the summed loss (scikit-learn's
``C = 1``, ``alpha = 1``) everywhere, so nothing is tuned. What an aggregator gains over this it gains by looking at
instances. Predictions come in the shape of the task's own and go through the same functions of
:mod:`core.evaluation.bags`, under the name ``mean_of_instances``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from core.evaluation.metrics import FloatArray
from core.evaluation.probe import fit

if TYPE_CHECKING:
    from core.mil.bags import Bag

NAME = "mean_of_instances"


def mean_of_instances(bags: Iterable[Bag]) -> FloatArray:
    """Mean feature of each bag, [N, D]; bags are read one at a time."""
    return np.stack([bag.features.mean(axis=0, dtype=np.float64) for bag in bags])


def linear_classes(train: npt.ArrayLike, labels: npt.ArrayLike, test: npt.ArrayLike, classes: int) -> FloatArray:
    """Probabilities [M, classes] of a logistic regression; training bags of unknown class (-1) are left out."""
    return fit_classes(train, labels, classes)(test)


def fit_classes(train: npt.ArrayLike, labels: npt.ArrayLike, classes: int) -> Callable[[npt.ArrayLike], FloatArray]:
    """The model of :func:`linear_classes`, to be asked of the tiles of one bag after the other."""
    truth = np.asarray(labels, dtype=np.int64)
    return fit(np.asarray(train)[truth >= 0], truth[truth >= 0], classes)


def linear_labels(train: npt.ArrayLike, labels: npt.ArrayLike, test: npt.ArrayLike) -> FloatArray:
    """Probabilities [M, L] of one logistic regression a label; ``labels`` [N, L] with 1, 0 or -1 (left out)."""
    columns = np.asarray(labels, dtype=np.int64).T
    return np.stack([linear_classes(train, column, test, 2)[:, 1] for column in columns], axis=1)


def linear_number(train: npt.ArrayLike, targets: npt.ArrayLike, test: npt.ArrayLike) -> FloatArray:
    """Predictions [M] of a ridge regression of standardised targets [N]; NaN is left out."""
    from sklearn.linear_model import Ridge

    truth = np.asarray(targets, dtype=np.float64)
    known = ~np.isnan(truth)
    mean, deviation = truth[known].mean(), truth[known].std() or 1.0
    features, others = _standardised(np.asarray(train)[known], test)
    model = Ridge(alpha=1.0).fit(features, (truth[known] - mean) / deviation)
    guess: FloatArray = model.predict(others) * deviation + mean
    return guess


def linear_risk(train: npt.ArrayLike, time: npt.ArrayLike, event: npt.ArrayLike, test: npt.ArrayLike) -> FloatArray:
    """Log-risks [M] of a Cox regression with Efron's ties, which is convex: solved, not trained."""
    import torch
    from scipy.optimize import minimize

    from core.mil.tasks.cox import partial_likelihood

    features, others = _standardised(train, test)
    tiles, times = torch.from_numpy(features), torch.from_numpy(np.array(time, dtype=np.float64))
    events = torch.from_numpy(np.array(event)) > 0

    def penalised(weight: FloatArray) -> tuple[float, FloatArray]:
        variable = torch.tensor(weight, requires_grad=True)
        with torch.enable_grad():
            terms = partial_likelihood(tiles @ variable, times, events, "efron")
            total = terms.sum() + variable.square().sum() / 2
        (gradient,) = torch.autograd.grad(total, variable)
        return float(total.detach()), gradient.numpy()

    start = np.zeros(features.shape[1])
    found = minimize(penalised, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-8, "ftol": 0, "maxiter": 1000})
    risks: FloatArray = others @ found.x
    return risks


def _standardised(train: npt.ArrayLike, test: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(np.asarray(train, dtype=np.float64))
    return scaler.transform(train), scaler.transform(np.asarray(test, dtype=np.float64))
