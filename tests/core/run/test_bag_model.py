"""What an ensemble of runs over bags decides, and what it says of the tiles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from core.mil.aggregators.mean import MeanPooling
from core.mil.bags import Bag, PackedBags
from core.mil.tasks.classification import BagClassification
from core.mil.tasks.cox import BagCox
from core.mil.tasks.discrete_hazard import BagDiscreteHazard
from core.mil.tasks.multilabel import BagMultilabel
from core.mil.tasks.regression import BagRegression
from core.mil.tasks.task import BagTask
from core.run.bag_facts import Decision, Facts, read_facts, write_facts
from core.run.bag_maps import weightiest
from core.run.bag_member import Member
from core.run.bag_model import BagModel, _require_alike
from core.types import UserError

WIDTH = 4


def bag(seed: int = 0, width: int = WIDTH, encoder: str = "toy@1", size: float = 64.0) -> Bag:
    random = np.random.default_rng(seed)
    features = random.normal(size=(9, width)).astype(np.float32)
    return Bag(f"bag{seed}", features, 64 * random.integers(9, size=(9, 2)).astype(np.float32), size, "um", encoder)


def facts(classes: tuple[str, ...] = (), **known: object) -> Facts:
    chosen = {"threshold": None, "cut": None, "risk_scale": None, **known}
    return Facts(WIDTH, "toy@1", "um", classes, **chosen)  # type: ignore[arg-type]


def classifier(seed: int, classes: int = 2) -> BagTask:
    torch.manual_seed(seed)
    return BagClassification(MeanPooling(WIDTH, ()), classes)


def ensemble(*members: tuple[BagTask, Facts]) -> BagModel:
    return BagModel(tuple(Member(Path(), task, known) for task, known in members), OmegaConf.create({}))


def test_the_threshold_is_the_median_of_the_members_and_no_member_is_passed_over() -> None:
    names = ("normal", "tumour")
    tasks = [classifier(seed) for seed in range(3)]
    of = [(task, facts(names, threshold=value)) for task, value in zip(tasks, (0.9, 0.2, 0.4), strict=True)]
    model = ensemble(*of)
    assert model.threshold == pytest.approx(0.4)
    told = model.predict(bag())
    alone = [task.predict(PackedBags.pack([bag()]))[0, 1] for task in tasks]
    assert told["probability.tumour"] == pytest.approx(np.mean(alone), rel=1e-6)
    assert told["prediction"] == names[int(np.mean(alone) >= 0.4)]
    without = ensemble(*of, (classifier(3), facts(names)))
    assert without.threshold is None
    assert without.predict(bag())["prediction"] is None  # between two classes nothing is decided at 0.5


def test_a_patient_is_decided_by_what_was_found_on_patients_and_a_slide_by_what_was_found_on_slides() -> None:
    names = ("normal", "tumour")
    pairs = ((0.9, Decision(0.1)), (0.8, Decision(0.3)), (0.7, None))  # the last has one slide a patient
    of = [(classifier(seed), facts(names, threshold=own, of_units=whole)) for seed, (own, whole) in enumerate(pairs)]
    model = ensemble(*of)
    assert (model.decision().threshold, model.decision(whole=True).threshold) == (0.8, 0.3)
    outcome = np.array([0.5, 0.5])
    assert (model.row(outcome)["prediction"], model.row(outcome, whole=True)["prediction"]) == names
    risks = ensemble((BagCox(MeanPooling(WIDTH, ())), facts(cut=1.0, of_units=Decision(cut=0.0))))
    told = [risks.row(np.array([0.5]), whole)["risk_group"] for whole in (False, True)]
    assert told == ["low", "high"]


def test_findings_are_decided_each_at_its_own_median_threshold_or_not_at_all() -> None:
    torch.manual_seed(0)
    tasks = [BagMultilabel(MeanPooling(WIDTH, ()), ["a", "b", "c"]) for _ in range(2)]
    probabilities = np.mean([task.predict(PackedBags.pack([bag()]))[0] for task in tasks], axis=0)
    near = [float(value) for value in probabilities]
    thresholds = [{"a": near[0] - 0.1, "b": near[1] + 0.2, "c": 0.5}, {"a": near[0], "b": near[1] - 0.1, "c": None}]
    model = ensemble(*((task, facts(thresholds=own)) for task, own in zip(tasks, thresholds, strict=True)))
    told = model.predict(bag())
    assert (told["prediction.a"], told["prediction.b"], told["prediction.c"]) == (1, 0, None)
    assert told["probability.b"] == pytest.approx(near[1], rel=1e-6)
    assert "prediction.a" not in ensemble((tasks[0], facts())).predict(bag())  # an older run kept none: no 0.5 instead


def test_of_three_classes_the_most_probable_is_predicted() -> None:
    told = ensemble((classifier(0, 3), facts(("a", "b", "c")))).predict(bag())
    assert told["prediction"] == max("abc", key=lambda name: float(told[f"probability.{name}"] or 0))


def test_risks_count_on_the_scale_of_each_members_own_training_bags() -> None:
    plain, louder = BagCox(MeanPooling(WIDTH, ())), BagCox(MeanPooling(WIDTH, ()))
    with torch.no_grad():
        louder.head.weight.copy_(10 * plain.head.weight)
    said = [float(plain.predict(PackedBags.pack([bag(seed)]))[0]) for seed in (1, 2)]
    scale = (0.3, 0.5)
    model = ensemble(
        (plain, facts(risk_scale=scale, cut=0.0)), (louder, facts(risk_scale=(10 * 0.3, 10 * 0.5), cut=0.2))
    )
    for seed, risk in zip((1, 2), said, strict=True):
        told = model.predict(bag(seed))
        assert told["risk"] == pytest.approx((risk - 0.3) / 0.5, rel=1e-5)
        assert told["risk_group"] == ("high" if (risk - 0.3) / 0.5 > 0.1 else "low")


def test_contributions_to_a_risk_are_on_its_scale_and_a_loud_member_outvotes_nobody() -> None:
    torch.manual_seed(0)
    plain, louder = BagCox(MeanPooling(WIDTH, ())), BagCox(MeanPooling(WIDTH, ()))
    with torch.no_grad():  # the other way half as strongly, and log-risks twenty times as wide
        louder.head.weight.copy_(-0.5 * 20 * plain.head.weight)
    model = ensemble((plain, facts(risk_scale=(0.0, 0.5))), (louder, facts(risk_scale=(1.0, 20 * 0.5))))
    for seed in range(1, 5):
        level = (0 + 1 / 10) / 2  # of the training bags: it belongs to no tile
        risk = float(model.predict(bag(seed))["risk"] or 0)
        assert model.explain(bag(seed)).contributions.sum() == pytest.approx(risk + level, abs=1e-6)


def test_runs_on_tiles_of_two_scales_are_no_ensemble_and_an_older_one_that_kept_none_is_passed_over() -> None:
    sizes = (None, 64.0, 70.0, 128.0)
    found = [Member(Path(str(k)), classifier(k), facts(("a", "b"), tile_size=size)) for k, size in enumerate(sizes)]
    with pytest.raises(UserError, match=r"'1' and '3' are no ensemble.* tiles of 64 um and of 128 um"):
        _require_alike(Path("cv"), found)


def test_contributions_sum_to_what_a_score_is_without_its_bias() -> None:
    task = classifier(0, 3)
    with torch.no_grad():
        task.head.bias.zero_()
    explained = ensemble((task, facts(("a", "b", "c")))).explain(bag())
    scores = np.log(task.predict(PackedBags.pack([bag()]))[0])
    np.testing.assert_allclose(explained.contributions.sum(axis=0), scores - scores.mean(), atol=1e-5)
    np.testing.assert_allclose(explained.weights.sum(), 1, rtol=1e-6)


def test_contributions_are_in_the_unit_of_the_target_and_one_for_all_bins_of_time() -> None:
    estimate = BagRegression(MeanPooling(WIDTH, ()))
    estimate.deviation.fill_(3.0)
    estimate.mean.fill_(7.0)
    with torch.no_grad():
        estimate.head.bias.zero_()
    model = ensemble((estimate, facts()))
    assert model.score_names() == ("estimate",)
    told = model.predict(bag())["estimate"]
    assert told == pytest.approx(7 + float(model.explain(bag()).contributions.sum()), rel=1e-5)
    bins = ensemble((BagDiscreteHazard(MeanPooling(WIDTH, ()), bins=4), facts()))
    assert bins.explain(bag()).contributions.shape == (9, 1)
    assert bins.outcome_names == ("risk",)


@pytest.mark.parametrize("other", [bag(width=5), bag(encoder="toy@2")])
def test_a_bag_of_another_kind_is_refused(other: Bag) -> None:
    with pytest.raises(UserError, match="learned from width 4, encoder toy@1"):
        ensemble((classifier(0), facts(("a", "b")))).predict(other)


def test_a_bag_at_another_scale_is_refused_and_an_older_run_that_kept_none_takes_it() -> None:
    model = ensemble((classifier(0), facts(("a", "b"), tile_size=64.0)))
    for size in (32.0, 128.0):
        with pytest.raises(UserError, match=f"tiles of {size:g} um; the run learned from tiles of 64 um"):
            model.predict(bag(size=size))
    assert model.predict(bag(size=70.0))
    assert ensemble((classifier(0), facts(("a", "b")))).predict(bag(size=128.0))


def test_facts_are_read_as_they_were_written_and_a_newer_version_is_refused(tmp_path: Path) -> None:
    known = facts(("a", "b"), threshold=0.25, cut=1.5, risk_scale=(0.5, 2.0), tile_size=64.0, thresholds={"x": 0.5},
                  of_units=Decision(0.3, {"x": None}, 0.2))  # fmt: skip
    write_facts(tmp_path, known)
    assert read_facts(tmp_path) == known
    path = tmp_path / "model.json"
    stored = json.loads(path.read_text())
    older = {name: value for name, value in stored.items() if name not in ("tile_size", "thresholds", "of_units")}
    path.write_text(json.dumps({**older, "schema_version": 2}))
    assert read_facts(tmp_path) == replace(known, tile_size=None, thresholds={}, of_units=None)
    path.write_text(json.dumps({**stored, "schema_version": 5}))
    with pytest.raises(UserError, match="newer than 4"):
        read_facts(tmp_path)


def test_an_area_is_the_fewest_tiles_that_make_up_half_of_what_was_said_where_they_speak_for_a_class() -> None:
    values = np.array([1.0, 6.0, -4.0, 2.0])
    assert weightiest(values).tolist() == [False, True, False, False]
    assert weightiest(-values).tolist() == [False, False, True, False]
    assert not weightiest(np.array([1.0, 6.0, -9.0, 2.0])).any()
    assert weightiest(np.array([3.0, 3.0, 3.0, 3.0])).sum() == 2
    assert not weightiest(np.array([-1.0, 0.0])).any()
