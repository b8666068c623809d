"""Claims about the metadata control."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from core.data.manifest import Manifest
from core.evaluation.metadata import Metadata, encode


def test_numbers_names_and_what_training_does_not_know(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = ("p,1,0.25,frontal,2020-01-01", "p,2,0.5,frontal,2021-01-01", "p,1,,frontal,", "p,3,1.0,frontal,2020-12-31")
    table.write_text("\n".join(["path,site,mpp,view,date", *(f"{n}{row}" for n, row in enumerate(rows))]))
    frame = Manifest.read(table, pictures=False).frame
    columns = [name for name in Metadata().columns if name in frame]
    assert columns == ["site", "view", "date", "resolution"]
    features = encode(frame, columns, np.array([0, 1, 2]))
    # site 3 is in the test rows alone; the one view says nothing; what is missing is the mean of training
    expected = [[1, 0, 2020, 0.25], [0, 1, 2021, 0.5], [1, 0, 2020.5, 0.375], [0, 0, 2020 + 365 / 366, 1.0]]
    np.testing.assert_allclose(features, expected)


def test_nothing_that_varies_gives_no_feature() -> None:
    frame = pd.DataFrame({"site": ["a", "a", "b"], "date": [None, None, "2020-01-01"]})
    assert encode(frame, ["site", "date"], np.array([0, 1])).shape == (3, 0)
    assert encode(frame, [], np.array([0, 1])).shape == (3, 0)
