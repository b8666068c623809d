"""Claims about the metadata control."""

from __future__ import annotations

import numpy as np
import pandas as pd

from core.evaluation.metadata import encode


def test_numbers_texts_and_what_training_does_not_know() -> None:
    frame = pd.DataFrame(
        {
            "site": ["a", "b", "a", "c"],  # c is in the test rows alone
            "mpp": [0.25, 0.5, None, 1.0],
            "view": ["frontal"] * 4,  # says nothing
        }
    )
    features = encode(frame, ["site", "mpp", "view"], np.array([0, 1, 2]))
    expected = [[1, 0, 0.25], [0, 1, 0.5], [1, 0, 0.375], [0, 0, 1.0]]  # a missing number is the mean of training
    np.testing.assert_allclose(features, expected)


def test_nothing_that_varies_gives_no_feature() -> None:
    frame = pd.DataFrame({"site": ["a", "a", "b"], "date": [None, None, "2020-01-01"]})
    assert encode(frame, ["site", "date"], np.array([0, 1])).shape == (3, 0)
    assert encode(frame, [], np.array([0, 1])).shape == (3, 0)
