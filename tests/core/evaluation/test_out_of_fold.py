"""The out-of-fold table: every bag once, averaged over seeds, on the scale that folds share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from core.evaluation.arms import find_arms, find_runs
from core.evaluation.bags import Predicted, bag_classification, bag_multilabel, bag_survival
from core.evaluation.cohort import Classes, Cohort
from core.evaluation.out_of_fold import out_of_fold, pooled_results, write_out_of_fold
from core.evaluation.tables import write_results
from core.run.out_of_fold import keep_out_of_fold
from core.types import Evaluation

NAMES = ("normal", "tumour")


def save(folder: Path, evaluation: Evaluation, seed: int, fold: int | None, road: str = "bags", **more: int) -> None:
    write_results(folder, [evaluation])
    split = {"fold": fold, "folds": None if fold is None else 2, "seed": None}
    config = {"seed": seed, "road": road, "bags": {"of": "group"}, "data": {"unit": "patient", "split": split}, **more}
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")


def classes(patients: list[int], probability: list[float]) -> Evaluation:
    values = np.stack([1 - np.array(probability), np.array(probability)], axis=1)
    names = [f"p{patient}" for patient in patients]
    truth = {"label": np.array([patient % 2 for patient in patients])}
    predicted = Predicted(values, truth, Cohort(names, names, "patient", draws=10))
    return bag_classification("patient", predicted, Classes(NAMES, np.array([2, 2])))


def test_folds_are_put_together_and_seeds_averaged(tmp_path: Path) -> None:
    save(tmp_path / "0", classes([0, 1], [0.1, 0.9]), 0, 0)
    save(tmp_path / "1", classes([2, 3], [0.2, 0.8]), 0, 1)
    save(tmp_path / "2", classes([0, 3], [0.3, 0.6]), 1, 0)
    save(tmp_path / "3", classes([2, 1], [0.4, 0.5]), 1, 1)
    table = out_of_fold(find_arms(find_runs([tmp_path])[0])[0]).set_index("id")
    assert table["seeds"].tolist() == [2] * 4
    assert table["probability.tumour"].to_dict() == pytest.approx({"p0": 0.2, "p1": 0.7, "p2": 0.3, "p3": 0.7})
    assert table["fold"].to_dict() == {"p0": "0", "p1": "0|1", "p2": "1", "p3": "1|0"}
    assert table["label"].to_dict() == {"p0": "normal", "p1": "tumour", "p2": "normal", "p3": "tumour"}


def test_the_curve_of_all_folds_is_that_of_the_table(tmp_path: Path) -> None:
    save(tmp_path / "0", classes([0, 1], [0.1, 0.6]), 0, 0)
    save(tmp_path / "1", classes([2, 3], [0.7, 0.8]), 0, 1)
    arms = find_arms(find_runs([tmp_path])[0])[0]
    keep_out_of_fold(tmp_path, arms, Console(quiet=True))
    curve = pd.read_csv(tmp_path / "figures" / "out_of_fold_roc.csv")
    assert np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"]) == pytest.approx(0.75)
    assert set(curve["class"]) == {"tumour"}
    assert set(curve["n_positive"] + curve["n_negative"]) == {4}
    assert (tmp_path / "figures" / "out_of_fold_roc.pdf").read_bytes().startswith(b"%PDF")
    results = pooled_results(arms[0])
    assert results is not None
    assert [(one.n, one.unit) for one in results.figures] == [(4, "patient")]


def test_arms_have_curves_of_their_own_and_a_task_without_classes_has_none(tmp_path: Path) -> None:
    for number, width in enumerate((8, 16)):
        save(tmp_path / str(number), classes([0, 1], [0.1, 0.6]), 0, 0, width=width)
    keep_out_of_fold(tmp_path, find_arms(find_runs([tmp_path])[0])[0], Console(quiet=True))
    arms = [pd.read_csv(tmp_path / "figures" / f"out_of_fold_roc_{number}.csv")["arm"].iloc[0] for number in (1, 2)]
    assert arms == [8, 16]  # what distinguishes the arms
    cohort, follow_up = Cohort(["a", "b"], ["a", "b"], "patient", draws=10), {"time": np.ones(2), "event": np.ones(2)}
    save(tmp_path / "risk" / "0", bag_survival("patient", Predicted(np.array([1.5, -0.5]), follow_up, cohort)), 0, 0)
    assert pooled_results(find_arms(find_runs([tmp_path / "risk"])[0])[0][0]) is None


def test_survival_and_findings_keep_their_own_columns(tmp_path: Path) -> None:
    cohort = Cohort(["a", "b"], ["a", "b"], "patient", draws=10)
    follow_up = {"time": np.array([3.0, 5.0]), "event": np.array([1.0, 0.0])}
    survival = bag_survival("patient", Predicted(np.array([1.5, -0.5]), follow_up, cohort), 0.0)
    save(tmp_path / "survival" / "0", survival, 0, 0)
    table = out_of_fold(find_arms(find_runs([tmp_path / "survival"])[0])[0])
    assert table[["id", "risk", "time", "event"]].to_numpy().tolist() == [
        ["a", 1.5, 3.0, True],
        ["b", -0.5, 5.0, False],
    ]
    truth = {"label.x": np.array([1, 0]), "label.y": np.array([0, -1])}
    findings = bag_multilabel("patient", Predicted(np.array([[0.9, 0.2], [0.3, 0.4]]), truth, cohort), ["x", "y"])
    save(tmp_path / "findings" / "0", findings, 0, 0)
    table = out_of_fold(find_arms(find_runs([tmp_path / "findings"])[0])[0])
    assert table["probability.y"].tolist() == [0.2, 0.4]
    assert table["targets.x"].tolist() == [1, 0]


def test_runs_without_folds_or_over_pictures_have_no_such_table(tmp_path: Path) -> None:
    save(tmp_path / "whole", classes([0, 1], [0.1, 0.9]), 0, None)
    save(tmp_path / "pairs", classes([0, 1], [0.1, 0.9]), 0, 0, "pairs")
    for name in ("whole", "pairs"):
        arms = find_arms(find_runs([tmp_path / name])[0])[0]
        assert write_out_of_fold(tmp_path, arms) is None
    assert not (tmp_path / "out_of_fold.csv").exists()
