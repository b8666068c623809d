"""Controls beside pooled figures are those of the pooled items, worked out by hand, or are left out by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from core.evaluation.bag_evaluators import beside_control
from core.evaluation.bags import Predicted, bag_classification, bag_regression
from core.evaluation.classification import classification
from core.evaluation.cohort import Classes, Cohort, Controls
from core.evaluation.hierarchy import Hierarchy
from core.evaluation.metrics import macro_auroc, point
from core.evaluation.pooled import PooledFigure, pooled
from core.evaluation.tables import write_results
from core.report.wording import is_control
from core.types import Evaluation


def fold(folder: Path, number: int, made: list[Evaluation]) -> None:
    (folder / str(number)).mkdir()
    write_results(folder / str(number), made)
    split = {"split": {"fold": number}, "unit": "patient"}
    OmegaConf.save({"seed": 0, "road": "bags", "data": split}, folder / str(number) / "config.yaml")


def figures(folder: Path) -> dict[str, PooledFigure]:
    return {figure.name: figure for figure in pooled(folder, {}, draws=20)}


def predicted(values: np.ndarray, truth: np.ndarray, ids: list[str], units: list[str] | None = None) -> Predicted:
    return Predicted(values, {"label": truth}, Cohort(ids, units or ids, "patient", draws=20))


def test_a_model_that_is_the_training_mean_equals_its_control(tmp_path: Path) -> None:
    truth = np.random.default_rng(0).normal(size=40)
    for number, test in enumerate(np.split(np.arange(40), 10)):
        train = np.delete(truth, test)
        said = predicted(np.full(4, train.mean()), truth[test], [f"p{i}" for i in test])
        fold(tmp_path, number, [bag_regression("patient", said, train)])
    for figure in figures(tmp_path).values():
        assert figure.controls["training_mean"] == pytest.approx(figure.value)
        assert "training_median" in figure.controls


def classes_in_folds(folder: Path) -> None:
    order, truth = np.random.default_rng(0).permutation(40), np.array([0] * 34 + [1] * 6)
    for number, test in enumerate(np.split(order, 10)):
        said = predicted(np.tile([0.9, 0.1], (4, 1)), truth[test], [f"p{i}" for i in test])
        classes = Classes(("a", "b"), np.bincount(np.delete(truth, test)))
        fold(folder, number, [bag_classification("patient", said, classes)])


def test_the_majority_is_that_of_all_folds_also_where_folds_have_one_class(tmp_path: Path) -> None:
    classes_in_folds(tmp_path)
    found = figures(tmp_path)
    assert found["patient/balanced_accuracy"].controls == {"chance": 0.5, "majority": 0.5}
    assert found["patient/leaf_accuracy"].controls["majority"] == pytest.approx(34 / 40)
    assert found["patient/macro_auroc"].controls == {"chance": 0.5, "majority": 0.5}


def test_what_an_older_run_cannot_tell_is_left_out_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes_in_folds(tmp_path)
    for path in tmp_path.glob("*/items.parquet"):
        pd.read_parquet(path).drop(columns="correct.majority").to_parquet(path)
    found = figures(tmp_path)
    assert found["patient/balanced_accuracy"].controls == {"chance": 0.5}
    assert "left out of pooling: the control majority of patient/balanced_accuracy" in capsys.readouterr().out
    assert found["patient/leaf_accuracy"].controls["majority"] == pytest.approx(34 / 40)  # a mean over items is exact


def _two_classes(name: str, said: Predicted, _: Predicted | None, beside: Controls | None) -> Evaluation:
    return bag_classification(name, said, Classes(("a", "b"), np.array([20, 20])), None, beside)


def test_beside_the_figure_of_patients_stands_the_control_of_patients(tmp_path: Path) -> None:
    random, rows = np.random.default_rng(0), []
    for number in range(4):
        truth, units = np.repeat(np.arange(10) % 2, 5), np.repeat([f"p{number}_{i}" for i in range(10)], 5).tolist()
        ids = [f"{unit}_{i}" for i, unit in enumerate(units)]
        own, guess = (np.clip(0.5 + 0.3 * (truth - 0.5) + s * random.normal(size=50), 0, 1) for s in (0.3, 0.5))
        guess = np.stack([1 - guess, guess], axis=1)

        def of(values: np.ndarray, truth: Any = truth, ids: Any = ids, units: Any = units) -> Predicted:
            return predicted(values, truth, ids, units)

        subject: Any = SimpleNamespace(name="bag", unit="patient", predicted=of)
        both = np.stack([1 - own, own], axis=1)
        made = beside_control(subject, of(both), None, guess, _two_classes)
        assert [is_control(one.name) for one in made] == [False, True, False, True]
        fold(tmp_path, number, made)
        rows.append(pd.DataFrame({"unit": units, "truth": truth, "guess": guess[:, 1]}))
    patients = pd.concat(rows).groupby("unit").mean()
    scores = np.stack([-patients["guess"], patients["guess"]], axis=1)
    expected = point(macro_auroc(scores, patients["truth"].astype(int)), len(patients))
    found = figures(tmp_path)
    assert found["patient/macro_auroc"].controls["mean_of_instances"] == pytest.approx(expected)
    slides = found["bag/macro_auroc"].controls["mean_of_instances"]
    assert slides == pytest.approx(found["mean_of_instances/macro_auroc"].value)
    assert slides != pytest.approx(expected)


def test_a_figure_that_a_fold_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.array([0, 0, 1, 1])
    for number in range(3):
        said = predicted(np.eye(2)[truth], truth, [f"p{number}_{i}" for i in range(4)])
        threshold = None if number == 1 else 0.5
        fold(tmp_path, number, [bag_classification("patient", said, Classes(("a", "b"), np.array([9, 9])), threshold)])
    assert "patient/sensitivity" not in figures(tmp_path)
    assert "left out of pooling: patient/sensitivity, missing in 1 of 3 runs" in capsys.readouterr().out


def test_distances_of_blind_errors_are_those_of_all_items(tmp_path: Path) -> None:
    tree = Hierarchy.from_csv(_tree(tmp_path / "tree.csv"), ["a", "b", "c"])
    random, truths, majorities = np.random.default_rng(0), [], []
    for number, size in enumerate((5, 9, 12)):
        truth = random.integers(3, size=size)
        counts = np.roll(np.array([9, 2, 2]), number)  # every fold has another majority
        cohort = Cohort([f"p{number}_{i}" for i in range(size)], [f"p{number}_{i}" for i in range(size)], draws=20)
        classes, said = Classes(("a", "b", "c"), counts, tree), random.dirichlet(np.ones(3), size)
        fold(tmp_path, number, [classification("zero_shot", said, truth, classes, cohort)])
        truths.append(truth)
        majorities.append(np.full(size, number))
    truth, majority = np.concatenate(truths), np.concatenate(majorities)
    controls = figures(tmp_path)["zero_shot/tree_distance_of_errors"].controls
    assert controls["chance"] == pytest.approx(tree.chance_distance()[truth].mean())
    assert controls["majority"] == pytest.approx(tree.distance[majority, truth][majority != truth].mean())


def _tree(path: Path) -> Path:
    path.write_text("label,parent\na,x\nb,x\nc,y\nx,root\ny,root\n")
    return path
