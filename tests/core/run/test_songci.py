"""Slides and texts from feature files to a ranking: songci, alignment by any objective, and a moving average."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from core.evaluation.tables import Results, read_results
from core.run.entry import main
from tests.core.run.text_cohort import DISEASES, FAMILIES, NEVER, write_text_cohort

SMALL = [
    "model.text.model_args={context_length: 16, width: 32, heads: 2, layers: 1}", "model.embed_dim=32",
    "optimiser.lr=0.003", "schedule.warmup_steps=5", "knowledge.max_share=1.0",
]  # fmt: skip
ONE = ["schedule.steps=1", "schedule.warmup_steps=0"]
ALIGNED = ["experiment=bags", "bag_task=alignment", "step=plain", "bags.of=id", "aggregator.hidden=[16]"]
SONGCI = ["experiment=songci", "aggregator.prototypes=12", "aggregator.learning.steps=40", "bags.context=findings"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_cohort(tmp_path_factory.mktemp("cohort"))


def train(table: Path, out: Path, *keys: str) -> tuple[int, Path]:
    graph = [f"knowledge.path={table.parent / 'diagnoses.csv'}"]
    given = [f"manifest={table}", f"bags.features={table.parent / 'features'}", f"output.root={out}", "output.id=run"]
    status = main("domains.pathology", "train", [*SMALL, *graph, *given, *keys])
    return status, next((out / "pathology" / "train").glob("*/run"))


def values(results: Results, name: str) -> tuple[float, dict[str, float]]:
    figure = next(figure for figure in results.figures if figure.name == name)
    return figure.value, dict(figure.controls)


@pytest.mark.parametrize("recipe", [ALIGNED, SONGCI], ids=["alignment", "songci"])
def test_diagnoses_are_ranked_above_chance_and_the_order_of_frequency(
    table: Path, tmp_path: Path, recipe: list[str]
) -> None:
    # a text tower that learns from nothing is drawn together by the published weight, whose tower was frozen
    weaker = ["bag_task.pull_weight=0.2"] if recipe is SONGCI else []
    status, run = train(table, tmp_path, *recipe, *weaker, "schedule.steps=120")
    assert status == 0
    results = read_results(run)
    value, controls = values(results, "ranking/mean_reciprocal_rank")
    assert value > controls["majority"] > controls["chance"]
    assert value > 0.6
    details = results.details["ranking"]
    assert details["vocabulary"] == 1 + len(FAMILIES) + len(DISEASES) + len(NEVER)
    assert (details["source"], details["left_out"]) == ("graph", 0)
    recall, beside = values(results, "retrieval/image_to_text/recall@1")
    assert recall > beside["chance"]
    assert (run / "report.html").is_file()


def test_without_a_graph_the_training_captions_are_ranked(table: Path, tmp_path: Path) -> None:
    status, run = train(table, tmp_path, *ALIGNED, *ONE, "knowledge.path=null")
    assert status == 0
    details = read_results(run).details["ranking"]
    assert details["source"] == "training captions"
    assert 2 <= details["vocabulary"] <= len(DISEASES)


OTHERS = [
    [*ALIGNED, "objective=siglip"], [*ALIGNED, "objective=group_metric"],
    [*ALIGNED, "step=cached", "step.micro_batch=5"],
    [*SONGCI, "step=cached", "step.micro_batch=5"], [*SONGCI, "bags.context=null", "objective=target_sigmoid"],
    [*SONGCI, "bag_task.train_text=false", "bags.of=group"],
    [*ALIGNED, "evaluation.bags.figures.vocabulary=[adenoma, lipoma, melanoma]"],
]  # fmt: skip


@pytest.mark.parametrize("choice", OTHERS, ids=" ".join)
def test_every_choice_takes_a_step_and_is_evaluated(table: Path, tmp_path: Path, choice: list[str]) -> None:
    status, run = train(table, tmp_path, *choice, *ONE)
    assert status == 0
    assert "ranking/hit@10" in {figure.name for figure in read_results(run).figures}


def test_the_average_of_the_weights_is_what_is_kept(table: Path, tmp_path: Path) -> None:
    """With a momentum of 1 the average never leaves the first weights."""
    ema = ["+updater@updaters.ema=ema", "updaters.ema.momentum=1.0"]
    steps = ["schedule.steps=3", "schedule.warmup_steps=0"]
    kept = [load_file(train(table, tmp_path / str(n), *ALIGNED, *steps, *keys)[1] / "model.safetensors")
            for n, keys in enumerate([ema, ["optimiser.lr=0.0"], []])]  # fmt: skip
    with_average, still, moved = (weights["head.weight"] for weights in kept)
    assert with_average.equal(still)
    assert not with_average.equal(moved)


def test_mistakes_are_told_in_one_paragraph(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for keys, told in (
        ([*SONGCI, "bags.context=gross"], "no column 'gross' to read together"),
        ([*SONGCI, "bags.standardise=true"], "songci needs prototypes and has Standardised"),
        ([*ALIGNED, "step=token_groups"], "groups of bags cannot see each other"),
        ([*ALIGNED, "evaluation.bags.figures.vocabulary=[scurvy]"], "no concept with id or name 'scurvy'"),
    ):
        assert main("domains.pathology", "train", [*SMALL, f"manifest={table}", f"output.root={tmp_path}",
                    f"knowledge.path={table.parent / 'diagnoses.csv'}",
                    f"bags.features={table.parent / 'features'}", *ONE, *keys]) == 2  # fmt: skip
        assert told in " ".join(capsys.readouterr().err.split())
