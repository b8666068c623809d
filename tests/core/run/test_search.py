"""Claims about the verb ``search``: what a person gets for a text and for an example, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from omegaconf import OmegaConf
from PIL import Image

import core
from core.data.sharing import opaque, sharing_key
from core.mil.features import read_bag
from core.models.weights import save_trained
from core.run.compose import Composer, job_part
from core.run.folder import write_config
from core.run.instantiate import instantiate
from core.types import Window
from domains.pathology.readers import SlideReader
from tests.core.raster.pictures import noise, write_slide
from tests.core.run.verbs import only_run, run
from tests.core.search.files import write

SIDE = 128  # level-0 pixels of a tile: 64 px of 1 um at 0.5 um


@dataclass(frozen=True)
class World:
    """Slides, the features of their tiles, and the run whose tower made them."""

    slides: Path
    features: Path
    run: Path
    manifest: Path


def trained(folder: Path, seed: int) -> Path:
    """A run folder with drawn weights."""
    folder.mkdir(parents=True)
    with Composer("train", "domains.pathology") as composer:
        cfg = job_part(composer.compose([]))
    write_config(folder, cfg)
    torch.manual_seed(seed)
    save_trained(instantiate(cfg.model), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("cohort")
    for number, name in enumerate(("a.svs", "b, with (commas).svs", "c.svs")):
        write_slide(folder / "slides" / name, [noise(768, 1024, number)], 0.5)
    own = World(folder / "slides", folder / "features", trained(folder / "run", 1), folder / "cohort.csv")
    table = {"path": sorted(path.name for path in own.slides.iterdir()), "site": ["X", "Y", "X"], "mpp": 0.5}
    pd.DataFrame(table).assign(path=lambda rows: "slides/" + rows["path"]).to_csv(own.manifest, index=False)
    words = (f"run={own.run}", f"input={own.slides}", f"out={own.features}", "device=cpu")
    assert run("embed", *words, f"output.root={folder / 'outputs'}") == 0
    return own


def search(root: Path, *arguments: str, status: int = 0) -> Path:
    """Runs the verb and returns its run folder."""
    assert run("search", f"output.root={root}", "device=cpu", *arguments) == status
    return only_run(root, "search")


def ranked(world: World, query: np.ndarray) -> list[tuple[str, int, int]]:
    """(slide, x, y) of all tiles by brute force, nearest first."""
    rows, cosines = [], []
    for path in sorted(world.features.glob("*.h5")):
        bag = read_bag(path)
        rows += [(bag.id, *place) for place in np.rint(bag.coordinates / 0.5).astype(int).tolist()]
        values = bag.features.astype(np.float32)
        cosines.append(values / np.linalg.norm(values, axis=1, keepdims=True) @ query)
    return [rows[i] for i in np.argsort(-np.concatenate(cosines), kind="stable")]


def pixels(world: World, slide: str, x: float, y: float, size: int) -> np.ndarray:
    with SlideReader().open(world.slides / slide) as raster:
        return raster.read(Window(x, y, SIDE, SIDE), (size, size)).values


def test_a_text_finds_the_tiles_of_brute_force_with_pictures_and_areas(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "fronds, <b>debris</b> & 'more' (x=1)"
    folder = search(tmp_path, f"run={world.run}", f"index={world.features}", f"input={world.slides}", f"query={text}")
    printed = capsys.readouterr().out
    assert "search_recall_at_10: 1.000" in printed
    assert "slides_found: 3 of 3" in printed
    table = pd.read_csv(folder / "hits.csv")
    found = list(zip(table["slide"], table["x"], table["y"], strict=True))
    assert found == ranked(world, core.load(world.run).embed_texts([text])[0])[:24]
    assert table["rank"].tolist() == list(range(1, 25))
    assert set(table["w"]) == set(table["h"]) == {SIDE}
    page = (folder / "hits.html").read_text()
    assert "fronds, &lt;b&gt;debris&lt;/b&gt; &amp; &#39;more&#39; (x=1)" in page
    assert page.count('src="data:image/jpeg;base64,') == 24
    assert not re.search(r'(src|href)="(?!data:|hits/)', page)  # nothing is fetched
    for slide, rows in table.groupby("slide"):
        features = json.loads((folder / "hits" / f"{slide}.geojson").read_text())["features"]
        boxes = [shapely.geometry.shape(one["geometry"]).bounds for one in features]
        assert boxes == [(x, y, x + SIDE, y + SIDE) for x, y in zip(rows["x"], rows["y"], strict=True)]
        assert {one["properties"]["classification"]["name"] for one in features} == {text}
        scores = [one["properties"]["measurements"]["Similarity"] for one in features]
        np.testing.assert_allclose(scores, rows["similarity"], atol=1e-6)
    status = pd.read_csv(folder / "status.csv")
    assert status["path"].tolist() == ["a.svs.h5", "b, with (commas).svs.h5", "c.svs.h5"]
    assert set(status["status"]) == {"ok"}


def test_an_example_finds_itself_and_its_picture_is_shown(world: World, tmp_path: Path) -> None:
    example = tmp_path / "an example, of b.png"
    slide = "b, with (commas).svs"
    Image.fromarray(pixels(world, slide, 3 * SIDE, 2 * SIDE, SIDE)).save(example)
    words = (f"run={world.run}", f"example={example}", "data.resolution=0.5", f"input={world.slides}")
    folder = search(tmp_path, *words, f"index={world.features}", "search.count=3")
    first = pd.read_csv(folder / "hits.csv").iloc[0]
    assert (first["slide"], first["x"], first["y"]) == (slide, 3 * SIDE, 2 * SIDE)
    assert first["similarity"] > 0.999
    assert (folder / "hits.html").read_text().count('src="data:image/jpeg;base64,') == 4
    # the file does not say its scale, and nothing is guessed
    assert run("search", f"output.root={tmp_path}", *(text for text in words if "resolution" not in text),
               f"index={world.features}") == 2  # fmt: skip


def test_a_filter_by_the_manifest_holds_and_the_index_keeps_what_it_was_told(world: World, tmp_path: Path) -> None:
    out = tmp_path / "my index"
    asked = (f"run={world.run}", "query=x", "search.where={site: X}")
    folder = search(tmp_path, *asked, f"index={world.features}", f"manifest={world.manifest}", f"out={out}")
    table = pd.read_csv(folder / "hits.csv")
    assert set(table["slide"]) == {"a.svs", "c.svs"}
    assert set(table["site"]) == {"X"}
    assert "site X (2 slides)" in (folder / "hits.html").read_text()
    again = search(tmp_path, *asked, f"index={out}", "search.per_slide=2")  # the index itself, and nothing else
    table = pd.read_csv(again / "hits.csv")
    assert table["slide"].value_counts().to_dict() == {"a.svs": 2, "c.svs": 2}
    assert (again / "hits.html").read_text().count('src="data:image/jpeg;base64,') == 4
    assert run("search", f"output.root={tmp_path}", *asked[:2], f"index={out}", "search.where={colour: red}") == 2


def test_the_tower_of_another_run_is_refused_by_name(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = trained(tmp_path / "other", 2)
    Image.fromarray(noise(128, 128)).save(tmp_path / "example.png")
    for asked in (("query=x",), (f"example={tmp_path / 'example.png'}", "data.resolution=0.5")):
        assert run("search", f"output.root={tmp_path}", f"run={other}", f"index={world.features}", *asked) == 2
        said = capsys.readouterr().err
        assert "timm:resnet18/projected@" in said
        assert str(other) in said


def test_features_outside_of_the_space_of_texts_refuse_a_text(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "features", "a", np.eye(4), space="pooled")
    asked = (f"output.root={tmp_path}", f"index={tmp_path / 'features'}", "query=x")
    assert run("search", *asked, f"run={world.run}") == 2
    assert "'pooled', not in the space of texts" in capsys.readouterr().err


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(world: World, tmp_path: Path) -> None:
    features = tmp_path / "features"
    features.mkdir()
    for path in world.features.glob("*.h5"):
        (features / path.name).write_bytes(path.read_bytes())
    (features / "cut.h5").write_bytes(b"no features")
    for path in world.slides.glob("*.svs"):
        (tmp_path / path.name).write_bytes(path.read_bytes() if path.name != "c.svs" else b"no slide")
    asked = (f"run={world.run}", "query=x", f"input={tmp_path}", "search.per_slide=2")
    folder = search(tmp_path, f"index={features}", *asked, status=3)
    failures = pd.read_csv(folder / "failures.csv").set_index("path")["status"].to_dict()
    assert failures == {"cut.h5": "refused", "c.svs": "partial"}
    table = pd.read_csv(folder / "hits.csv")
    assert table["slide"].nunique() == 3
    page = (folder / "hits.html").read_text()
    assert page.count('src="data:image/jpeg;base64,') == 4
    assert page.count("no picture") == 2
    search(tmp_path, f"index={features}", *asked, "allow_failures=2")


def quotes(folder: Path) -> str:
    """All that a search leaves to be passed on."""
    return "\n".join(str(path) + path.read_text() for path in folder.rglob("hits*") if path.is_file())


def test_restricted_slides_are_shown_by_opaque_names_without_pictures_areas_or_columns(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))
    table = pd.read_csv(world.manifest).assign(record=[70001, 70002, 70003])
    table["path"] = [str(world.manifest.parent / path) for path in table["path"]]
    table.to_csv(tmp_path / "cohort.csv", index=False)
    Image.fromarray(pixels(world, "a.svs", 0, 0, SIDE)).save(tmp_path / "JANE.png")
    asked = (f"run={world.run}", f"manifest={tmp_path / 'cohort.csv'}", f"out={tmp_path / 'index'}",
             f"example={tmp_path / 'JANE.png'}", "data.resolution=0.5")  # fmt: skip
    folder = search(tmp_path, f"index={world.features}", "data.sharing=restricted", *asked)
    found = pd.read_csv(folder / "hits.csv")
    assert set(found["slide"]) <= {opaque(name, sharing_key()) for name in table["path"].map(lambda p: Path(p).name)}
    assert found["record"].isna().all()
    assert found["site"].isna().all()
    assert found["similarity"].iloc[0] > 0.999
    said = quotes(folder)
    assert "texts, images, ids and paths are withheld" in said
    assert not re.search(r"\.svs|JANE|cohort\.csv|data:image/jpeg|7000[123]", said)
    assert not (folder / "hits").exists()
    assert run("search", f"output.root={tmp_path}", f"index={world.features}", "data.sharing=Restricted") == 2
    assert "choose open or restricted" in capsys.readouterr().err


def test_slides_embedded_as_restricted_stay_so_beside_open_ones(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "secret").mkdir()
    write_slide(tmp_path / "secret" / "JANE.svs", [noise(256, 256, 9)], 0.5)
    (tmp_path / "secret" / "DOE.svs").write_text("no slide")
    words = (f"run={world.run}", f"input={tmp_path / 'secret'}", f"out={tmp_path / 'features' / 'secret'}")
    capsys.readouterr()
    root = f"output.root={tmp_path}"
    assert run("embed", *words, "device=cpu", root, "data.sharing=restricted") == 3
    assert "DOE" not in capsys.readouterr().out
    assert run("embed", *words, "device=cpu", root) == 2  # what was marked is not opened by forgetting a key
    assert "its sharing is restricted" in capsys.readouterr().err
    for path in world.features.glob("*.h5"):
        (tmp_path / "features" / path.name).write_bytes(path.read_bytes())
    for path in world.slides.iterdir():
        (tmp_path / "secret" / path.name).write_bytes(path.read_bytes())
    asked = (f"index={tmp_path / 'features'}", f"run={world.run}", "query=x", "search.per_slide=1")
    folder = search(tmp_path, *asked, f"input={tmp_path / 'secret'}")
    found = pd.read_csv(folder / "hits.csv")
    assert set(found["slide"]) == {"a.svs", "b, with (commas).svs", "c.svs", opaque("JANE.svs", sharing_key())}
    said = quotes(folder)
    assert said.count('src="data:image/jpeg;base64,') == 3
    assert "JANE" not in said
    assert sorted(path.stem for path in (folder / "hits").iterdir()) == ["a.svs", "b, with (commas).svs", "c.svs"]


def test_a_dry_run_counts_and_writes_nothing(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "index"
    search(tmp_path, f"index={world.features}", f"out={out}", "dry_run=true")
    printed = capsys.readouterr().out
    assert "feature_files: new 3, changed 0, gone 0, kept 0" in printed
    assert re.search(r"tiles: 144\nhours: [0-9.e-]+\ngb: [0-9.e-]+\n", printed)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no index is named"),
        (("index=FEATURES", "query=x", "example=MANIFEST"), "both given"),
        (("index=FEATURES", "query=x"), "no trained run"),
        (("index=FEATURES", "run=RUN", "query="), "query is empty"),
        (("index=FEATURES", "run=BAGS", "query=x"), "learned from bags: it has no towers"),
        (("index=FEATURES/nothing",), "does not exist"),
        (("index=MANIFEST",), "is no folder"),
        (("index=FEATURES", "search.count=0"), "search.count is 0"),
        (("index=RUN",), "no feature file"),
    ],
)
def test_a_mistake_is_told_in_a_paragraph(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    bags = tmp_path / "bags"
    bags.mkdir()
    write_config(bags, OmegaConf.create({"road": "bags"}))
    (bags / "model.safetensors").touch()
    names = {"FEATURES": world.features, "MANIFEST": world.manifest, "RUN": world.run, "BAGS": bags}
    for name, path in names.items():
        arguments = tuple(text.replace(name, str(path)) for text in arguments)
    assert run("search", f"output.root={tmp_path}", f"out={tmp_path / 'index'}", *arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert words == "no feature file" or not (tmp_path / "index").exists()
