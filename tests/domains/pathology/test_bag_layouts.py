"""Features of other tools by ``bag_layout=``: a run over twins of a cohort is the same run; a wrong name is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core.evaluation.tables import read_results
from core.run.compose import CONF
from tests.core.run.verbs import only_run, run
from tests.domains.pathology.twins import MPP, WRITERS, slide

SHORT = ("experiment=bags", "schedule.steps=2", "schedule.warmup_steps=0", "aggregator=mean", "aggregator.hidden=[4]")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Twelve slides in every layout: the folder of each for ``bags.features``, and the manifest."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = [
        (f"s{number}.svs", f"s{number}", f"p{number}", ("train", "train", "val", "test")[number // 2 % 4], number % 2)
        for number in range(12)
    ]
    table = pd.DataFrame(rows, columns=["path", "id", "group", "split", "label"]).assign(mpp=MPP)
    table.to_csv(folder / "slides.csv", index=False)
    for name in table["path"]:
        (folder / name).write_text(name)  # training looks at features alone
    features = {}
    for layout, write in WRITERS.items():
        for number, name in enumerate(table["id"]):
            features[layout] = write(folder / layout, slide(number), name)
    return {"manifest": folder / "slides.csv", **features}


def train(cohort: dict[str, Path], out: Path, folder: str, *keys: str) -> int:
    given = (f"manifest={cohort['manifest']}", f"bags.features={cohort[folder]}", f"output.root={out}")
    return run("train", *SHORT, *given, *keys)


@pytest.fixture(scope="module")
def predicted(cohort: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Items of the run over our own features, which is the default layout."""
    out = tmp_path_factory.mktemp("own")
    assert train(cohort, out, "embedded") == 0
    return read_results(only_run(out, "train", "bags")).items


def test_every_layout_has_a_twin_here() -> None:
    named = {path.stem for place in (CONF, CONF / "pathology") for path in (place / "bag_layout").glob("*.yaml")}
    assert named - {"instances"} == set(WRITERS)  # tables of instances: test_bags.py


@pytest.mark.parametrize("layout", sorted(set(WRITERS) - {"embedded"}))
def test_a_run_over_features_of_another_tool_is_the_run_over_our_own(
    cohort: dict[str, Path], predicted: pd.DataFrame, tmp_path: Path, layout: str
) -> None:
    assert train(cohort, tmp_path, layout, f"bag_layout={layout}") == 0
    items = read_results(only_run(tmp_path, "train", "bags")).items
    assert len(items) > 0
    assert items["id"].tolist() == predicted["id"].tolist()
    for ours, theirs in zip(predicted["probabilities"], items["probabilities"], strict=True):
        np.testing.assert_array_equal(theirs, ours)


@pytest.mark.parametrize(
    ("folder", "layout", "said"),
    [
        ("clam", "embedded", "none of which 'embed' wrote. choose its layout: bag_layout="),
        ("trident", "embedded", "none of which 'embed' wrote"),
        ("slide2vec", "embedded", "no feature files"),
        ("trident", "clam", "holds no features of CLAM: it looks like TRIDENT's"),
        ("embedded", "stamp", "it was written by the verb 'embed'"),
    ],
)
def test_a_folder_of_another_layout_is_told_in_a_sentence(
    cohort: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], folder: str, layout: str, said: str
) -> None:
    assert train(cohort, tmp_path, folder, f"bag_layout={layout}") == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_patches_of_clam_are_looked_for_before_anything_runs(
    cohort: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(cohort, tmp_path, "clam", "bag_layout=clam", f"bags.layout.patches={tmp_path / 'nowhere'}") == 2
    assert "bags.layout.patches" in capsys.readouterr().err
