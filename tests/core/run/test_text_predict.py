"""``predict`` with runs that align bags with texts: the vocabulary ranked, and what tiles and words added to it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

import core
from core.mil.bags import Bag, PackedBags
from core.mil.features import read_bag
from core.mil.tasks.alignment import TextTask
from core.mil.texts import Entry
from core.run.bag_facts import Facts, read_facts, write_facts
from core.run.bag_member import Member
from core.run.bag_model import BagModel
from core.types import UserError
from tests.core.mil import text_world
from tests.core.raster.pictures import noise, shrink, write_slide
from tests.core.run.bag_cohort import write_slide_features
from tests.core.run.test_songci import ALIGNED, SONGCI, train
from tests.core.run.text_cohort import DISEASES, FAMILIES, NEVER, WIDTH, write_text_cohort
from tests.core.run.verbs import run as verb

SIDE, TILES = 128, 9
FINDINGS = {"planted": "a soft lump", "plain": "a grey nodule", "silent": ""}
QUICK = ["schedule.steps=4", "schedule.warmup_steps=0", 'evaluation.bags.figures.template="a {}"']


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    table = write_text_cohort(root, patients=32)
    recipes = {
        "songci": [*SONGCI, *QUICK, "aggregator.learning.steps=5"],
        "alignment": [*ALIGNED, *QUICK, "bags.of=group"],
    }
    return {name: train(table, root / name, *keys)[1] for name, keys in recipes.items()}


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patient ``one`` has two slides, one of which can be opened; ``two`` has one of which nothing was found."""
    folder, random = tmp_path_factory.mktemp("new"), np.random.default_rng(5)
    picture = 225 - noise(SIDE, SIDE * TILES) // 8
    write_slide(folder / "planted.svs", [picture, shrink(picture, 4)], 0.5)
    for name in FINDINGS:
        write_slide_features(folder, name, random.normal(size=(TILES, WIDTH)).astype(np.float16))
    lines = [f"{name}.svs,{name},{'two' if name == 'silent' else 'one'},{text}" for name, text in FINDINGS.items()]
    (folder / "new.csv").write_text("\n".join(["path,id,group,findings", *lines]) + "\n")
    return folder


def predict(run: Path, new: Path, root: Path, *keys: str) -> tuple[int, Path]:
    given = [f"run={run}", f"manifest={new / 'new.csv'}", f"bags.features={new / 'features'}", f"output.root={root}"]
    status = verb("predict", *given, "output.id=run", *keys)
    return status, root / "pathology" / "predict" / "default" / "run"


def loaded(run: Path) -> BagModel:
    model = core.load(run)
    assert isinstance(model, BagModel)
    return model


def bag_of(new: Path, name: str) -> Bag:
    return replace(read_bag(new / "features" / f"{name}.h5"), id=name)


def test_songci_ranks_diagnoses_and_tells_what_tiles_and_words_added(
    runs: dict[str, Path], new: Path, tmp_path: Path
) -> None:
    status, out = predict(runs["songci"], new, tmp_path)
    assert status == 0
    table = pd.read_csv(out / "predictions.csv").set_index("group")
    assert list(table.index) == ["one", "two"]
    assert {f"top{place}.{what}" for place in range(1, 6) for what in ("name", "concept", "score")} < set(table.columns)
    scores = table[[f"top{place}.score" for place in range(1, 6)]].to_numpy()
    assert (np.diff(scores, axis=1) <= 0).all()

    model = loaded(runs["songci"])
    vocabulary = model.facts.vocabulary
    assert len(vocabulary) == 1 + len(FAMILIES) + len(DISEASES) + len(NEVER)
    slides = {name: model.outcome(bag_of(new, name), text) for name, text in FINDINGS.items()}
    mean = (slides["planted"] + slides["plain"]) / 2  # the run learned from slides
    best = model.best(mean)
    row = table.loc["one"]
    assert Entry(row["top1.name"], row["top1.concept"], f"a {row['top1.name']}") == vocabulary[best]
    assert row["top1.score"] == pytest.approx(mean.max(), abs=1e-5)
    assert table.loc["two", "top1.score"] == pytest.approx(slides["silent"].max(), abs=1e-5)

    words = pd.read_csv(out / "words.csv")
    assert {bag: " ".join(rows["word"]) for bag, rows in words.groupby("bag")} == {
        name: text for name, text in FINDINGS.items() if text
    }
    tiles = pd.read_parquet(out / "tiles" / "planted.parquet")
    told = tiles[f"contribution.score of {vocabulary[best].name}"]
    said = words.loc[words["bag"] == "planted", "contribution"]
    assert told.sum() + said.sum() == pytest.approx(slides["planted"][best], abs=1e-5)
    assert 0 < tiles["weight"].sum() < 1  # the rest is the words'
    assert [path.name for path in sorted((out / "maps").iterdir())] == ["planted.geojson", "planted.png"]
    areas = json.loads((out / "maps" / "planted.geojson").read_text())["features"]
    assert {one["properties"]["classification"]["name"].split(" ", 1)[1] for one in areas} == {
        f"score of {vocabulary[best].name}"
    }


def test_alignment_ranks_a_patient_as_one_bag_whose_tiles_sum_to_the_score(
    runs: dict[str, Path], new: Path, tmp_path: Path
) -> None:
    status, out = predict(runs["alignment"], new, tmp_path)
    assert status == 0
    table = pd.read_csv(out / "predictions.csv").set_index("group")
    assert table["slides"].tolist() == [2, 1]
    assert not (out / "words.csv").exists()
    model = loaded(runs["alignment"])
    silent = bag_of(new, "silent")
    row = model.predict(silent)
    assert row["top1.concept"] == table.loc["two", "top1.concept"]
    assert row["top1.score"] == pytest.approx(table.loc["two", "top1.score"], abs=1e-5)
    explained = model.explain(silent, entry=model.best(model.outcome(silent)))
    assert explained.contributions.sum() == pytest.approx(row["top1.score"], abs=1e-5)
    assert (out / "maps" / "planted.png").is_file()
    with pytest.raises(UserError, match="can read no text"):
        model.predict(silent, "a soft lump")


def test_a_run_without_a_vocabulary_and_a_table_without_findings_are_refused(
    runs: dict[str, Path], new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(runs["alignment"], tmp_path / "old")
    stored = json.loads((copy / "model.json").read_text())
    stored["schema_version"] = 1
    del stored["vocabulary"]
    (copy / "model.json").write_text(json.dumps(stored))
    assert predict(copy, new, tmp_path)[0] == 2
    assert "keeps no vocabulary" in " ".join(capsys.readouterr().err.split())
    pd.read_csv(new / "new.csv").drop(columns="findings").to_csv(tmp_path / "bare.csv", index=False)
    assert predict(runs["songci"], new, tmp_path / "bare", f"manifest={tmp_path / 'bare.csv'}")[0] == 2
    assert "reads the column 'findings'" in " ".join(capsys.readouterr().err.split())


def test_captions_of_restricted_data_are_not_kept_with_a_run(tmp_path: Path) -> None:
    table = write_text_cohort(tmp_path, patients=32)
    keys = [*ALIGNED, *QUICK, "knowledge.path=null"]
    kept = {}
    for sharing in ("open", "restricted"):
        _, run = train(table, tmp_path / sharing, *keys, f"data.sharing={sharing}")
        kept[sharing] = read_facts(run).vocabulary
    assert len(kept["open"]) > 1
    assert kept["restricted"] == ()


def test_runs_that_rank_different_vocabularies_are_no_ensemble(runs: dict[str, Path], tmp_path: Path) -> None:
    for number in ("0", "1"):
        shutil.copytree(runs["alignment"], tmp_path / number)
    facts = read_facts(tmp_path / "1")
    write_facts(tmp_path / "1", replace(facts, vocabulary=facts.vocabulary[1:]))
    with pytest.raises(UserError, match="rank different vocabularies, of 16 and 15 entries"):
        core.load(tmp_path)


NAMES = tuple(Entry(name, f"X:{place}", f"a {name}") for place, name in enumerate(text_world.NAMES))


def member(task: TextTask) -> Member:
    facts = Facts(text_world.WIDTH, "toy@1", "um", (), None, None, None, NAMES)
    return Member(Path(), task.float(), facts)


def test_an_ensemble_ranks_by_the_mean_of_its_members_cosines() -> None:
    random = np.random.default_rng(0)
    given = Bag("b", random.normal(size=(7, text_world.WIDTH)).astype(np.float32), np.zeros((7, 2), np.float32), 64.0,
                "um", "toy@1")  # fmt: skip
    members = tuple(member(text_world.songci(seed)) for seed in range(2))
    model = BagModel(members, OmegaConf.create({"bags": {"context": "findings"}}))
    outcome = model.outcome(given, "a firm mass")
    each = [one.outcome(PackedBags.pack([given]), "a firm mass")[0] for one in members]
    np.testing.assert_allclose(outcome, np.mean(each, axis=0))
    order = np.argsort(-outcome)
    row = model.row(outcome)
    assert [row[f"top{place}.name"] for place in range(1, 5)] == [NAMES[entry].name for entry in order]
    assert "top5.name" not in row  # there are four
    explained = model.explain(given, "a firm mass", int(order[0]))
    words = model.words("a firm mass", explained)
    assert [word for word, _ in words] == ["a", "firm", "mass"]
    total = explained.contributions.sum() + sum(value for _, value in words)
    assert total == pytest.approx(outcome.max(), abs=1e-5)


def test_the_vocabulary_is_read_as_it_was_written(tmp_path: Path) -> None:
    known = member(text_world.alignment()).facts
    write_facts(tmp_path, known)
    assert read_facts(tmp_path) == known
