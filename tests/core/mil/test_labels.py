"""Labels become numbers by name, and a value that is none of what it could be is refused with its row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.data.manifest import Manifest
from core.mil.labels import bag_labels, known
from core.types import UserError


def manifest(**columns: list[object]) -> Manifest:
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    return Manifest(frame.assign(row=np.arange(len(frame))), Path("slides.csv"), Path(), "")


def test_names_become_numbers_in_the_order_of_the_classes() -> None:
    found = bag_labels(manifest(grade=["high", "low", None, "mid"]), ["grade"], {"grade": ["low", "mid", "high"]})
    assert found["grade"].tolist() == [2, 0, -1, 1]
    assert found["grade"].dtype == np.int64
    assert known(found["grade"]).tolist() == [True, True, False, True]


def test_findings_are_there_not_there_or_unknown() -> None:
    found = bag_labels(manifest(**{"label.oedema": ["1", "0", None, "-1"]}), ["label.oedema"])
    assert found["label.oedema"].tolist() == [1, 0, -1, -1]
    assert found["label.oedema"].dtype == np.int64


def test_other_columns_are_numbers_of_double_precision() -> None:
    found = bag_labels(manifest(time=["12.25", None, "3"]), ["time"])
    assert found["time"].dtype == np.float64
    assert known(found["time"]).tolist() == [True, False, True]
    assert found["time"][0] == 12.25


@pytest.mark.parametrize(
    ("column", "values", "classes", "words"),
    [
        ("label", ["a", "c"], {"label": ["a", "b"]}, "label is 'c', none of the classes a, b. slides.csv, row 3"),
        ("time", ["soon", "2"], {}, "time is 'soon', no number. slides.csv, row 2"),
        ("time", ["1", "inf"], {}, "time is 'inf', no number"),
        ("label.x", ["1", "2"], {}, "label.x is '2', not 1"),
    ],
)
def test_a_wrong_value_is_refused_with_its_row(
    column: str, values: list[object], classes: dict[str, list[str]], words: str
) -> None:
    with pytest.raises(UserError) as error:
        bag_labels(manifest(**{column: values}), [column], classes)
    assert words in str(error.value)


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"no column 'time'.*there are: label, row"):
        bag_labels(manifest(label=["a"]), ["time"])
