"""Coverage of outlined regions against cases worked by hand: orientation, frames, sign, ties, who is left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from core.data.manifest import Manifest
from core.evaluation.bag_regions import RegionsOfBags, recall_at_count
from core.evaluation.bag_subject import BagSubject
from core.mil.aggregators.mean import MeanPooling
from core.mil.bags import Bag
from core.mil.data import BagDataModule
from core.mil.labels import bag_labels
from core.mil.sampler import TokenBudgetSampler
from core.mil.tasks.classification import BagClassification
from core.types import Evaluation

NAMES = ("normal", "tumour")
COLUMNS, ROWS = 6, 4  # tiles of a slide, row by row
MPP, TILE = 0.25, 50.0  # microns: a tile is 200 level-0 pixels
LESION = 3 + 1 * COLUMNS  # the tile in column 3, row 1


@pytest.mark.parametrize(
    ("scores", "inside", "wanted"),
    [
        ([9, 8, 1, 0], [1, 1, 0, 0], 1.0),
        ([0, 1, 8, 9], [1, 1, 0, 0], 0.0),
        ([9, 1, 8, 0], [1, 1, 0, 0], 0.5),
        ([3, 3, 3, 3], [1, 0, 0, 0], 0.25),  # nothing is told apart: what is to be expected
        ([9, 3, 3, 3], [0, 1, 1, 0], 0.5 * (2 / 3)),  # one place left for three equal tiles, two of them inside
        ([9, 3, 3, 3], [1, 1, 0, 0], 0.5 * (1 + 1 / 3)),
    ],
)
def test_recall_among_the_highest(scores: list[float], inside: list[int], wanted: float) -> None:
    assert recall_at_count(scores, np.array(inside, dtype=bool)) == pytest.approx(wanted)


def test_equal_scores_count_as_random_ones_do() -> None:
    inside = np.random.default_rng(0).random(60) < 0.2
    shuffled = np.random.default_rng(1).random((4000, 60))
    mean = np.mean([recall_at_count(scores, inside) for scores in shuffled])
    assert recall_at_count(np.zeros(60), inside) == pytest.approx(mean, abs=0.01)


def slide(id: str, bright: int | None) -> Bag:
    """24 tiles; feature 0 of one of them is 1."""
    x, y = np.meshgrid(np.arange(COLUMNS), np.arange(ROWS))
    corners = TILE * np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    features = np.zeros((COLUMNS * ROWS, 2), np.float32)
    if bright is not None:
        features[bright, 0] = 1
    return Bag(id, features, corners, TILE, "um", "toy@1")


def subject(
    folder: Path, bright: dict[str, int | None], truth: dict[str, str], of: str = "id", mpp: str = "mpp"
) -> BagSubject:
    """A head that takes feature 0 for tumour, over test slides of which ``bright`` says the tile it sees."""
    lines = [f"path,id,group,split,label,{mpp},truth", "n.svs,n,n,train,normal,0.25,", "t.svs,t,t,train,tumour,0.25,"]
    for id in bright:
        label = "normal" if id == "zero" else "tumour"
        lines.append(f"{id}.svs,{id},{id.rstrip('ab')},test,{label},{MPP},{truth.get(id, '')}")
    (folder / "slides.csv").write_text("\n".join(lines) + "\n")
    manifest = Manifest.read(folder / "slides.csv", pictures=False)
    shown = {"n": None, "t": 0, **bright}
    data = BagDataModule(
        manifest,
        lambda id: slide(id, shown[id]),
        lambda lengths: TokenBudgetSampler(lengths, 2, 1000, 0),
        labels=bag_labels(manifest, ["label"], {"label": NAMES}),
        bag_of=of,
    )
    data.prepare(progress=False)
    task = BagClassification(MeanPooling(2, []), 2)
    with torch.no_grad():
        task.head.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    return BagSubject(task, data, NAMES, "bag", "patient", "synthetic", 0.05)


def outline(folder: Path, name: str, column: float, row: float, across: float = 1, down: float = 1) -> str:
    """An outline around tiles, in level-0 pixels."""
    x, y, right, bottom = (200 * tiles for tiles in (column, row, column + across, row + down))
    corners = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [corners]}, "properties": {}}
    (folder / name).write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return name


def only(made: list[Evaluation]) -> pd.DataFrame:
    (evaluation,) = made
    return evaluation.items.set_index("id")


def test_a_head_that_looks_at_the_region_reaches_the_inverse_of_the_prevalence(tmp_path: Path) -> None:
    truth, transposed = outline(tmp_path, "one.geojson", 3, 1), outline(tmp_path, "transposed.geojson", 1, 3)
    shown: dict[str, int | None] = {"c1": LESION, "c2": LESION, "dull": None, "zero": LESION}
    files = {"c1": truth, "c2": transposed, "dull": truth, "zero": truth}
    made = RegionsOfBags()(subject(tmp_path, shown, files))
    items = only(made)
    assert set(items.index) == {"c1", "c2", "dull"}, "a negative bag has nothing to be found"
    assert items["prevalence"].to_numpy() == pytest.approx(1 / 24)
    assert items["coverage"].to_dict() == pytest.approx({"c1": 24, "c2": 0, "dull": 1})
    coverage = made[0].figures[0]
    assert (coverage.name, coverage.n, coverage.unit) == ("region/coverage", 3, "patient")
    assert coverage.value == pytest.approx(1), "the median"
    assert "synthetic" in coverage.note


def test_a_contribution_against_the_class_is_no_attention_to_it(tmp_path: Path) -> None:
    found = subject(tmp_path, {"c1": LESION}, {"c1": outline(tmp_path, "one.geojson", 3, 1)})
    with torch.no_grad():
        found.task.head.weight.neg_()
    assert only(RegionsOfBags()(found)).at["c1", "coverage"] == 0


def test_half_of_a_tile_makes_it_one_of_the_region(tmp_path: Path) -> None:
    files = {"c1": outline(tmp_path, "half.geojson", 3.5, 1), "c2": outline(tmp_path, "less.geojson", 3.4, 1.2)}
    items = only(RegionsOfBags()(subject(tmp_path, dict.fromkeys(files, LESION), files)))
    assert items["recall"].to_dict() == {"c1": 0.5 + 0.5 / 23}, "2 tiles; of c2 none is half inside"


def test_the_middle_of_the_tissue_is_a_control(tmp_path: Path) -> None:
    # of 6 x 4 tiles four are nearest to the middle, all of them equally near
    files = {"c1": outline(tmp_path, "m.geojson", 2, 1, across=2), "c2": outline(tmp_path, "c.geojson", 0, 0, across=2)}
    made = RegionsOfBags()(subject(tmp_path, dict.fromkeys(files), files))
    assert only(made)["recall.centre"].to_dict() == {"c1": 0.5, "c2": 0}
    assert made[0].figures[0].controls["centre"] == pytest.approx((0.5 * 12 + 0) / 2)


def test_slides_of_a_patient_keep_their_own_frames(tmp_path: Path) -> None:
    files = {"p1a": outline(tmp_path, "a.geojson", 3, 1), "p1b": outline(tmp_path, "b.geojson", 0, 0)}
    items = only(RegionsOfBags()(subject(tmp_path, {"p1a": LESION, "p1b": 0}, files, "group")))
    assert items.at["p1", "tiles"] == 48
    assert items.at["p1", "prevalence"] == pytest.approx(2 / 48)
    assert items.at["p1", "coverage"] == pytest.approx(24)


def test_bags_without_a_region_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.geojson").write_text("{")
    (tmp_path / "odd.geojson").write_text('[{"geometry": {"type": "Star"}}]')
    files = {
        "c1": outline(tmp_path, "good.geojson", 3, 1),
        "c2": outline(tmp_path, "large.geojson", 0, 0, across=3),  # 3 of 24 tiles
        "c3": "",
        "c4": "broken.geojson",
        "c5": "odd.geojson",
        "c6": outline(tmp_path, "outside.geojson", 7, 7),
    }
    made = RegionsOfBags()(subject(tmp_path, dict.fromkeys(files, LESION), files))
    assert only(made).index.tolist() == ["c1", "c2"]
    assert made[0].details["left_out"] == {"no usable outlines": 3, "no tile in the region": 1}
    assert made[0].details["prevalence"]["most"] == pytest.approx(3 / 24)
    capsys.readouterr()
    # a resolution in metres is none in the microns of the features
    assert RegionsOfBags()(subject(tmp_path, {"c1": LESION}, files, mpp="gsd_m")) == []
    assert "no resolution in um" in capsys.readouterr().out
