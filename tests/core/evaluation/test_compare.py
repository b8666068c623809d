"""Arms are found in configs, paired by seed and item, and claimed only when the interval excludes zero."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from core.evaluation.arms import find_arms, find_runs
from core.evaluation.compare import compare
from core.evaluation.pooled import pooled
from core.run.compare import run
from core.types import UserError
from tests.core.evaluation.made import GROUPS, INFONCE, METRIC, TARGETS, UNIFORM, arm, made_run

SEEDS = range(5)


def _claim(folder: Path) -> Path:
    """The six arms: group metric truly helps, and helps less with a shuffled graph; the rest is equal or nearly so."""
    arms = [
        (UNIFORM, INFONCE, False, 0.60),
        (UNIFORM, TARGETS, False, 0.605),
        (GROUPS, INFONCE, False, 0.601),
        (GROUPS, METRIC, False, 0.75),
        (UNIFORM, TARGETS, True, 0.602),
        (GROUPS, METRIC, True, 0.62),
    ]
    for number, (sampler, objective, shuffled, accuracy) in enumerate(arms):
        for seed in SEEDS:
            config = arm(sampler, objective, 1000 + seed if shuffled else None)
            made_run(folder / f"{number}_{seed}", seed=seed, accuracy=accuracy, config=config)
    return folder


def test_the_claim_is_read_out_of_a_multirun(tmp_path: Path) -> None:
    arms, factors = find_arms(find_runs([_claim(tmp_path)])[0])
    assert factors == ["sampler", "objective", "knowledge.shuffle_seed"]
    assert sorted(len(one.runs) for one in arms) == [5] * 6
    result = compare(arms, factors)
    rows = {
        (r["factor"], r["level"], r["against"]): r
        for r in result.differences.to_dict("records")
        if r["metric"] == "zero_shot/leaf_accuracy"
    }
    helps = rows["objective", "GroupMetric graph", "SoftmaxContrastive diagonal"]
    assert (helps["verdict"], helps["averaged_over"], helps["seeds"]) == ("better", 1, 5)
    assert helps["difference"] > helps["smallest_detectable"]
    sampler = rows["sampler", "GroupSampler", "UniformSampler"]
    assert sampler["verdict"] == "undecided"
    shuffled = rows["knowledge.shuffle_seed", "set", "none"]
    assert (shuffled["verdict"], shuffled["averaged_over"]) == ("worse", 2)
    against = [r for r in rows if r[0] == "arm"]
    assert len(against) == 5
    assert {r[2] for r in against} == {"UniformSampler, SoftmaxContrastive diagonal"}


def test_each_cohort_is_compared_by_itself(tmp_path: Path) -> None:
    """The objective helps on the linked cohort and harms on the other: an average over both would hide it."""
    for linked, helps in ((True, 0.8), (False, 0.4)):
        for objective, accuracy in ((INFONCE, 0.6), (METRIC, helps)):
            for seed in SEEDS:
                config = {"data": {"phantom": {"linked": linked}}, "objective": objective}
                folder = tmp_path / f"{linked}{accuracy}{seed}"
                made_run(folder, seed=seed, accuracy=accuracy, config=config, prefix=f"{linked}")
    arms, factors = find_arms(find_runs([tmp_path])[0])
    assert factors == ["objective"]
    result = compare(arms, factors, "SoftmaxContrastive diagonal")
    rows = result.differences.query("metric == 'zero_shot/leaf_accuracy'")
    assert dict(zip(rows["cohort"], rows["verdict"], strict=True)) == {"linked=True": "better", "linked=False": "worse"}


def test_arms_are_named_by_what_was_chosen_on_the_command_line(tmp_path: Path) -> None:
    for name, (sampler, objective) in {"a": (UNIFORM, INFONCE), "b": (GROUPS, METRIC)}.items():
        for seed in (0, 1):
            folder = made_run(tmp_path / f"{name}{seed}", seed=seed, accuracy=0.6, config=arm(sampler, objective))
            said = [f"arm=arm_{name}", f"seed={seed}", "experiment=claim"]
            (folder / "status.json").write_text(json.dumps({"overrides": said}))
    arms, factors = find_arms(find_runs([tmp_path])[0])
    assert factors == ["arm"]
    assert [one.label for one in arms] == ["arm_a", "arm_b"]


def test_an_evaluation_belongs_to_the_arm_of_the_run_it_evaluated(tmp_path: Path) -> None:
    for name, rate in (("a", 0.1), ("b", 0.2)):
        trained = made_run(tmp_path / "trained" / name, seed=3, accuracy=0.6, config={"optimiser": {"lr": rate}})
        folder = made_run(tmp_path / "evaluated" / name, seed=3, accuracy=0.6)
        OmegaConf.save({"run": str(trained), "evaluation": {"rare_share": 0.1}}, folder / "config.yaml")
    arms, factors = find_arms(find_runs([tmp_path / "evaluated"])[0])
    assert factors == ["optimiser.lr"]
    assert [one.replicates for one in arms] == [("3/None",), ("3/None",)]


def test_a_difference_is_that_of_the_means_over_seeds(tmp_path: Path) -> None:
    for seed in (0, 1):
        made_run(tmp_path / f"a{seed}", seed=seed, accuracy=0.5, config={"optimiser": {"lr": 0.1}})
        made_run(tmp_path / f"b{seed}", seed=seed, accuracy=0.7, config={"optimiser": {"lr": 0.2}})
    runs, _ = find_runs([tmp_path])
    result = compare(*find_arms(runs))
    values = [next(f.value for f in r.results.figures if f.name == "zero_shot/leaf_accuracy") for r in runs]
    row = result.differences.query("metric == 'zero_shot/leaf_accuracy'").iloc[0]
    assert (row["level"], row["against"]) == ("0.2", "0.1")
    assert row["difference"] == pytest.approx((values[2] + values[3]) / 2 - (values[0] + values[1]) / 2)
    assert len(result.differences.query("factor == 'arm'")) == 0  # one factor: its levels are the arms


def test_a_key_that_names_the_arms_is_no_factor(tmp_path: Path) -> None:
    for number, (sampler, objective) in enumerate(
        [(UNIFORM, INFONCE), (UNIFORM, TARGETS), (GROUPS, INFONCE), (GROUPS, TARGETS)]
    ):
        config = {"arm": f"arm{number}", **arm(sampler, objective)}
        made_run(tmp_path / str(number), seed=0, accuracy=0.6, config=config)
    arms, factors = find_arms(find_runs([tmp_path])[0])
    assert factors == ["sampler", "objective"]
    assert [one.label for one in arms] == ["arm0", "arm1", "arm2", "arm3"]


def test_runs_on_other_items_are_refused_by_name(tmp_path: Path) -> None:
    made_run(tmp_path / "one", seed=0, accuracy=0.6, config={"optimiser": {"lr": 0.1}})
    made_run(tmp_path / "other", seed=0, accuracy=0.6, config={"optimiser": {"lr": 0.2}}, prefix="tile")
    with pytest.raises(UserError, match="cannot pair") as caught:
        compare(*find_arms(find_runs([tmp_path])[0]))
    said = str(caught.value)
    assert str(tmp_path / "one") in said
    assert str(tmp_path / "other") in said
    assert "item0" in said


def test_equal_runs_of_one_seed_are_refused(tmp_path: Path) -> None:
    for name in ("one", "copy"):
        made_run(tmp_path / name, seed=0, accuracy=0.6)
    with pytest.raises(UserError, match="evaluated twice"):
        compare(*find_arms(find_runs([tmp_path])[0]))


def test_runs_that_differ_in_their_seed_alone_have_values_and_no_differences(tmp_path: Path) -> None:
    for seed in SEEDS:
        made_run(tmp_path / str(seed), seed=seed, accuracy=0.6)
    result = compare(*find_arms(find_runs([tmp_path])[0]))
    assert len(result.differences) == 0
    assert result.values["seeds"].tolist() == [5] * len(result.values)


def test_only_common_seeds_are_paired_and_none_is_said(tmp_path: Path) -> None:
    for seed, rate in ((0, 0.1), (1, 0.1), (1, 0.2), (2, 0.2), (3, 0.3)):
        made_run(tmp_path / f"{rate}_{seed}", seed=seed, accuracy=0.6, config={"optimiser": {"lr": rate}})
    result = compare(*find_arms(find_runs([tmp_path])[0]))
    assert set(result.differences["seeds"]) == {1}
    assert "0.3 and 0.1 have no seed in common" in " ".join(result.notes)


def test_the_verb_writes_table_page_and_latex(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1, 2):
        made_run(tmp_path / "runs" / f"a{seed}", seed=seed, accuracy=0.5, config={"optimiser": {"lr": 0.1}})
        made_run(tmp_path / "runs" / f"b{seed}", seed=seed, accuracy=0.8, config={"optimiser": {"lr": 0.2}})
    unfinished = tmp_path / "runs" / "c"
    unfinished.mkdir()
    OmegaConf.save({"seed": 9}, unfinished / "config.yaml")
    cfg = {"runs": str(tmp_path / "runs"), "compare": {"baseline": "0.2"}}
    assert run(OmegaConf.create(cfg), tmp_path) == 0
    with open(tmp_path / "compare.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "difference"]
    assert {(row["level"], row["against"]) for row in rows} == {("0.1", "0.2")}
    assert {row["verdict"] for row in rows} >= {"worse"}
    page = (tmp_path / "compare.html").read_text()
    assert "verdict-worse" in page
    assert 'src="http' not in page
    assert "\\toprule" in (tmp_path / "compare.tex").read_text()
    assert "leaf\\_accuracy" in (tmp_path / "compare.tex").read_text()
    said = capsys.readouterr().out
    assert str(unfinished) in said.replace("\n", "")
    assert "worse" in said


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        ({"runs": None, "compare": {"baseline": None}}, "no runs"),
        ({"runs": "nowhere", "compare": {"baseline": None}}, "is no folder"),
        ({"runs": ".", "compare": {"baseline": "best"}}, "no arm is called 'best'"),
    ],
)
def test_what_cannot_be_compared_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cfg: dict[str, object], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "one", seed=0, accuracy=0.6)
    with pytest.raises(UserError, match=said):
        run(OmegaConf.create(cfg), tmp_path)


def test_folds_are_pooled_before_a_figure_is_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    floors = {"evaluation": {"floors": {"leaf_accuracy": {"colour6": 0.99, "majority": 0.1}}}}
    right = {}
    for seed in (0, 1):
        for fold in (0, 1, 2):
            folder = tmp_path / f"{seed}_{fold}"
            made_run(folder, seed=seed, accuracy=0.6, fold=fold, items=20 + 10 * fold, config=floors)
    runs, _ = find_runs([tmp_path])
    for one in runs:
        right.setdefault(one.replicate, []).extend(one.results.items["correct"])
    expected = sum(sum(values) / len(values) for values in right.values()) / 2
    figure = next(f for f in pooled(tmp_path) if f.name == "zero_shot/leaf_accuracy")
    assert figure.value == pytest.approx(expected)
    assert (figure.seeds, figure.folds, figure.n) == (2, 3, len(right["0/None"]))
    assert figure.below == ("colour6",)
    assert figure.smallest <= figure.value <= figure.largest
    half = (figure.largest - figure.smallest) / 2  # of two seeds the deviation is |a - b| / sqrt(2)
    assert figure.standard_error == pytest.approx(half)
    said = " ".join(capsys.readouterr().out.split())
    assert "BELOW" in said
    with open(tmp_path / "pooled.csv", newline="") as file:
        assert next(csv.DictReader(file))["below_floor"] == "colour6"
