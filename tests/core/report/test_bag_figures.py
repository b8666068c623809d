"""ROC and Kaplan-Meier figures: the CSV says what is drawn, and equal input gives equal files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import auc, roc_auc_score

from core.evaluation.survival import kaplan_meier, log_rank
from core.report.bag_figures import roc, survival_curves
from core.report.figures import save


def test_the_area_under_the_written_roc_is_the_auroc(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truth, scores = random.integers(3, size=50), random.integers(8, size=(50, 3)) / 8
    markup = save(*roc(scores, truth, {1: "tumour", 2: "stroma"}, "50 slides"), tmp_path, "roc")
    table = pd.read_csv(tmp_path / "figures" / "roc.csv")
    for code, name in ((1, "tumour"), (2, "stroma")):
        mine = table[table["class"] == name]
        area = auc(mine["false_positive_rate"], mine["true_positive_rate"])
        assert abs(area - roc_auc_score(truth == code, scores[:, code])) < 1e-12
        assert set(mine["n_positive"]) == {(truth == code).sum()}
        assert name in markup
    assert (tmp_path / "figures" / "roc.pdf").read_bytes().startswith(b"%PDF")


def test_a_class_without_positives_has_no_curve() -> None:
    _, table = roc(np.eye(2), [0, 0], {1: "tumour"})
    assert table.empty


def test_the_written_survival_curves_are_those_of_the_groups(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    time, event = random.exponential(size=40), random.random(40) < 0.7
    group = np.where(np.arange(40) % 2, "high", "low")
    drawn = survival_curves(time, event, group, "years", log_rank(time, event, group), "40 patients, synthetic")
    markup = save(*drawn, tmp_path, "survival")
    table = pd.read_csv(tmp_path / "figures" / "survival.csv")
    for name in ("high", "low"):
        mine = table[table["group"] == name].drop(columns="group").reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, kaplan_meier(time[group == name], event[group == name]))
    for said in ("log-rank p", "synthetic", "years", "high (n = 20"):
        assert said in markup
    first = (tmp_path / "figures" / "survival.pdf").read_bytes()
    save(*survival_curves(time, event, group, "years", log_rank(time, event, group), "40 patients, synthetic"),
         tmp_path, "survival")  # fmt: skip
    assert (tmp_path / "figures" / "survival.pdf").read_bytes() == first
