"""A table of instances as bags, and features brought to a common scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.manifest import Manifest, ManifestOptions
from core.mil.aggregator import check_aggregator
from core.mil.aggregators.gated_abmil import GatedABMIL
from core.mil.instances import InstanceTable
from core.mil.standardise import Standardised
from core.types import UserError

TABLE = "bag,label,f1,f2,f10\nb,1,1,2,3\na,0,4,5,6\nb,1,7,8,9\n"


def test_a_table_of_instances_gives_bags_and_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    layout = InstanceTable()
    found = layout.find(path)
    assert list(found) == ["b", "a"]
    bag = layout.read(found["b"], "b")
    np.testing.assert_array_equal(bag.features, [[1, 2, 3], [7, 8, 9]])  # f10 comes after f2
    options = ManifestOptions(columns={"path": "bag", "id": "bag"}, one_per="id")
    frame = Manifest.read(path, options, pictures=False).frame
    assert frame["id"].tolist() == ["b", "a"]
    assert frame["label"].tolist() == ["1", "0"]
    assert frame["row"].tolist() == [0, 1]


def test_instances_of_one_bag_must_have_one_label_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(TABLE.replace("b,1,7", "b,0,7"))
    with pytest.raises(UserError, match="differ in label"):
        Manifest.read(path, ManifestOptions(columns={"path": "bag", "id": "bag"}, one_per="id"), pictures=False)
    path.write_text(TABLE.replace("8", "eight"))
    with pytest.raises(UserError, match="no number"):
        InstanceTable().find(path)
    path.write_text("bag,label\nb,1\n")
    with pytest.raises(UserError, match="no columns f1"):
        InstanceTable().find(path)


def test_standardised_features_have_mean_zero_and_keep_the_contract() -> None:
    torch.manual_seed(0)
    model = Standardised(GatedABMIL(4, hidden=[8], attention=4))
    tiles = torch.randn(500, 4) * torch.tensor([1.0, 100.0, 0.01, 0.0]) + torch.tensor([0.0, 50.0, 3.0, 7.0])
    model.prepare(tiles, seed=0)
    scaled = (tiles - model.mean) / model.deviation
    assert scaled.mean(0).abs().max() < 1e-3
    torch.testing.assert_close(scaled.std(0, correction=0), torch.tensor([1.0, 1.0, 1.0, 0.0]), atol=1e-3, rtol=0)
    check_aggregator(model)
