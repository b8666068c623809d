"""Areas of instances within bags are those of scikit-learn, and a table that does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from core.data.manifest import Manifest, ManifestOptions
from core.evaluation.bag_instances import InstancesOfBags
from core.evaluation.bag_subject import BagSubject
from core.mil.aggregators.gated_abmil import GatedABMIL
from core.mil.data import BagDataModule
from core.mil.instances import InstanceTable
from core.mil.labels import bag_labels
from core.mil.sampler import TokenBudgetSampler
from core.mil.tasks.classification import BagClassification
from core.types import UserError
from tests.acceptance.digits import keys, write
from tests.core.run.verbs import only_run, run


def drawn(path: Path) -> pd.DataFrame:
    """Sixty bags of one to eight instances with three features; two thirds are positive by an instance or more."""
    random, rows = np.random.default_rng(0), []
    for bag in range(60):
        marked = random.random(random.integers(1, 9)) < 0.3
        features = random.normal(size=(len(marked), 3)) + marked[:, None]
        for feature, truth in zip(features, marked, strict=True):
            rows.append((f"b{bag}", ("no", "yes")[int(marked.any())], ("train", "val", "test")[bag % 3], int(truth),
                         *feature))  # fmt: skip
    table = pd.DataFrame(rows, columns=["bag", "label", "split", "truth", "f1", "f2", "f3"])
    table.to_csv(path, index=False)
    return table


def subject_of(path: Path) -> BagSubject:
    manifest = Manifest.read(path, ManifestOptions(columns={"path": "bag", "id": "bag", "group": "bag"}, one_per="id"),
                             pictures=False)  # fmt: skip
    layout = InstanceTable()
    data = BagDataModule(
        manifest,
        lambda name: layout.read(path, name),
        lambda lengths: TokenBudgetSampler(lengths, 8, 1000, 0),
        labels=bag_labels(manifest, ["label"], {"label": ("no", "yes")}),
        bag_of="id",
    )
    data.prepare(progress=False)
    torch.manual_seed(0)
    task = BagClassification(GatedABMIL(3, hidden=[8], attention=4), classes=2).eval()
    return BagSubject(task, data, ("no", "yes"), "bag", "bag", "", 0.05)


def test_areas_are_those_of_each_bag_alone(tmp_path: Path) -> None:
    table = drawn(tmp_path / "t.csv")
    subject = subject_of(tmp_path / "t.csv")
    (made,) = InstancesOfBags(tmp_path / "t.csv", "truth")(subject)
    means = table[table["split"] == "train"].groupby("bag", sort=False)[["f1", "f2", "f3"]].mean()
    labels = table[table["split"] == "train"].groupby("bag", sort=False)["label"].first()
    scaler = StandardScaler().fit(means.to_numpy())
    linear = LogisticRegression(max_iter=5000).fit(scaler.transform(means.to_numpy()), labels == "yes")
    wanted = {}
    for name, rows in table[table["split"] == "test"].groupby("bag", sort=False):
        if rows["truth"].nunique() == 2:
            pack = next(pack for pack in subject.data.eval_bags("test", tokens=1) if pack.ids == (name,))
            shares = subject.task.contributions(pack)
            with torch.no_grad():
                weights = subject.task.aggregator(pack).weights.numpy()
            alone = linear.decision_function(scaler.transform(rows[["f1", "f2", "f3"]].to_numpy()))
            scores = (weights, shares[:, 1] - shares[:, 0], alone)
            wanted[name] = [roc_auc_score(rows["truth"], values) for values in scores]
    assert made.items["id"].tolist() == list(wanted)
    found = made.items[["attention_auroc", "contribution_auroc", "mean_of_instances_auroc"]].to_numpy()
    np.testing.assert_allclose(found, np.array(list(wanted.values())), atol=1e-12)
    figures = {figure.name: figure for figure in made.figures}
    assert figures["instance/attention_auroc"].value == pytest.approx(np.mean(found[:, 0]))
    assert figures["instance/attention_auroc"].controls["chance"] == 0.5
    assert figures["instance/contribution_auroc"].controls["mean_of_instances"] == pytest.approx(np.mean(found[:, 2]))


def test_tables_that_do_not_fit_are_refused_and_unknown_bags_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = drawn(tmp_path / "t.csv")
    subject = subject_of(tmp_path / "t.csv")
    with pytest.raises(UserError, match="no column 'nine'"):
        InstancesOfBags(tmp_path / "t.csv", "nine")
    table.assign(truth=table["truth"] * 2).to_csv(tmp_path / "two.csv")
    with pytest.raises(UserError, match="other values than 0 and 1"):
        InstancesOfBags(tmp_path / "two.csv", "truth")
    table.drop_duplicates("bag").to_csv(tmp_path / "few.csv")
    with pytest.raises(UserError, match="has 1 of 'b"):
        InstancesOfBags(tmp_path / "few.csv", "truth")(subject)
    table[table["split"] == "train"].to_csv(tmp_path / "train.csv")
    assert InstancesOfBags(tmp_path / "train.csv", "truth")(subject) == []
    assert "no test bag" in capsys.readouterr().out


def test_a_bag_called_na_is_a_bag(tmp_path: Path) -> None:
    table = drawn(tmp_path / "t.csv")
    (made,) = InstancesOfBags(tmp_path / "t.csv", "truth")(subject_of(tmp_path / "t.csv"))
    renamed = table.assign(bag=table["bag"].replace(made.items["id"].iloc[0], "NA"))
    renamed.to_csv(tmp_path / "na.csv", index=False)
    (again,) = InstancesOfBags(tmp_path / "na.csv", "truth")(subject_of(tmp_path / "na.csv"))
    assert again.items["id"].tolist() == ["NA", *made.items["id"].iloc[1:]]


def test_a_run_on_bags_of_digits_shows_where_the_nines_are(tmp_path: Path) -> None:
    table = write(tmp_path / "digits.csv", {"train": 120, "val": 30, "test": 60})
    assert run("train", *keys(table), f"output.root={tmp_path}", "schedule.steps=150") == 0
    from core.evaluation.tables import read_results

    figures = {figure.name: figure for figure in read_results(only_run(tmp_path, "train", "bags")).figures}
    found = figures["instance/contribution_auroc"]
    assert found.low > 0.7
    assert 20 < found.n < 60  # positive bags with another digit beside the nine
    assert "a picture may be in several bags" in found.note
