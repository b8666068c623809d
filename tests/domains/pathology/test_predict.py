from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from core.run import predict
from core.run.overlay import class_colours, class_layer, scale_bar
from core.types import Geometry, UserError
from domains.pathology.readers import SlideReader
from tests.core.raster.pictures import break_tile, write_slide
from tests.domains.pathology.test_tile import rows

PINK, BLUE = (225, 120, 180), (80, 90, 200)


class Colours(torch.nn.Module):
    """A model whose answer is known: an image is its mean colour, a text the colour it names."""

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0] if "pink" in text else [0.0, 1.0] for text in texts])

    def encode_texts(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(tokens, dim=-1)


@dataclass
class Run:
    geometry: Geometry
    folder: Path = Path("run")
    scale: float = 20.0
    prompts: dict[str, list[str]] | None = None
    encoder: Colours = field(default_factory=Colours)
    config: DictConfig | None = None

    def embed_images(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        assert images.shape[1:] == (3, self.geometry.size_px, self.geometry.size_px)
        mean = images.mean((2, 3))
        axes = np.stack([mean[:, 0] > mean[:, 2], mean[:, 0] <= mean[:, 2]], 1).astype(np.float32)
        return axes


def config(source: Path, **changed: object) -> DictConfig:
    keys: dict[str, object] = {
        "run": "latest",
        "input": str(source),
        "manifest": None,
        "manifest_options": {},
        "prompts": ["pink tissue", "blue tissue"],
        "reader": {"_target_": "domains.pathology.readers.SlideReader"},
        "areas": {"_target_": "domains.pathology.outputs.qupath.QuPathGeoJson"},
        "data": {"resolution": None},
        "bags": {"features": None, "layout": None},
        "output": {"root": "outputs"},
        "trivium": {"domain": "domains.pathology"},
        "tile": {"overlap": 0.0, "min_coverage": 0.25},
        "smoothing": False,
        "threshold": 0.5,
        "batch_size": 4,
        "dry_run": False,
        "allow_failures": 0,
        "debug": True,
    }
    return OmegaConf.merge(OmegaConf.create(keys), OmegaConf.create(changed))


def slide(path: Path) -> Path:
    """Pink everywhere except a strip of glass at the left; blue in the top right corner."""
    picture = np.empty((768, 1024, 3), np.uint8)
    picture[:] = PINK
    picture[:, :128] = 243
    picture[:256, 768:] = BLUE
    return write_slide(path, [picture], 0.5)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Run:
    made = Run(Geometry(64, 1.0))  # 128 level-0 pixels
    monkeypatch.setattr(predict, "find", lambda run, root, domain: Path(run))
    monkeypatch.setattr(predict, "learned_from_bags", lambda run: False)
    monkeypatch.setattr(predict, "load_pairs", lambda run: made)
    return made


def areas(folder: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for feature in json.loads((folder / "maps" / "a.svs.geojson").read_text())["features"]:
        found.setdefault(feature["properties"]["classification"]["name"], []).append(feature)
    return found


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_planted_corner_is_in_the_same_corner_of_the_areas_and_of_the_tiles(
    tmp_path: Path, model: Run, overlap: float
) -> None:
    source = slide(tmp_path / "a.svs")
    assert predict.run(config(source, tile={"overlap": overlap}), tmp_path / "out") == 0
    found = areas(tmp_path / "out")
    (blue,) = found["blue tissue"]
    slack = 64 * overlap * 2  # a tile over the edge belongs to either side
    assert shapely.geometry.shape(blue["geometry"]).bounds == pytest.approx((768, 0, 1024, 256), abs=slack)
    (pink,) = found["pink tissue"]
    assert shapely.geometry.shape(pink["geometry"]).bounds == pytest.approx((128, 0, 1024, 768), abs=slack)
    tiles = pd.read_parquet(tmp_path / "out" / "tiles" / "a.svs.parquet")
    is_blue = tiles["probability.blue tissue"] > 0.5
    assert tiles[is_blue]["x"].min() >= 768 - 64
    assert tiles[is_blue]["y"].max() <= 192
    assert tiles[["w", "h"]].to_numpy().tolist() == [[128.0, 128.0]] * len(tiles)


def test_a_planted_corner_is_in_the_same_corner_of_the_picture(tmp_path: Path, model: Run) -> None:
    predict.run(config(slide(tmp_path / "a.svs")), tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out" / "maps" / "a.svs.png").convert("RGB")).astype(int)
    # the first panel: in it, and only in its top right corner, the second class's colour lies over the slide
    colour = np.array(class_colours(2)[1])
    wanted = 0.75 * colour + 0.25 * np.array(BLUE)
    panel = picture[:, : picture.shape[1] // 3]
    hit = (np.abs(panel - wanted).max(-1) < 12).nonzero()
    mild = 0.75 * np.array(class_colours(2)[0]) + 0.25 * np.array(PINK)
    rest = (np.abs(panel - mild).max(-1) < 12).nonzero()
    assert len(hit[0]) > 1000
    width, height = np.ptp(rest[1]), np.ptp(rest[0])
    assert (hit[1].min() - rest[1].min()) / width == pytest.approx((768 - 128) / (1024 - 128), abs=0.03)
    assert (hit[0].max() - rest[0].min()) / height == pytest.approx(256 / 768, abs=0.03)


def test_a_slides_row_says_shares_probabilities_and_the_most_frequent_class(tmp_path: Path, model: Run) -> None:
    predict.run(config(slide(tmp_path / "a.svs")), tmp_path / "out")
    (row,) = rows(tmp_path / "out" / "predictions.csv")
    assert (row["path"], row["tiles"], row["prediction"]) == ("a.svs", "42", "pink tissue")
    assert float(row["share.blue tissue"]) == pytest.approx(4 / 42, abs=1e-5)
    assert float(row["share.blue tissue"]) + float(row["share.pink tissue"]) == pytest.approx(1, abs=1e-5)
    assert json.loads((tmp_path / "out" / "prompts.json").read_text())["pink tissue"] == ["pink tissue"]


def test_areas_carry_their_measurements(tmp_path: Path, model: Run) -> None:
    predict.run(config(slide(tmp_path / "a.svs")), tmp_path / "out")
    (blue,) = areas(tmp_path / "out")["blue tissue"]
    measured = blue["properties"]["measurements"]
    assert measured["Tiles"] == 4
    assert measured["Area um^2"] == 256 * 256 * 0.25
    assert measured["Mean probability"] == pytest.approx(1, abs=1e-4)
    assert blue["properties"]["classification"]["color"] == list(class_colours(2)[1])
    assert len(blue["geometry"]["coordinates"][0]) == 5  # a rectangle, without points on its edges


def test_tiles_below_the_threshold_belong_to_no_area(tmp_path: Path, model: Run) -> None:
    model.scale = 1.0  # the winner has 0.73
    predict.run(config(slide(tmp_path / "a.svs"), threshold=0.8), tmp_path / "out")
    assert areas(tmp_path / "out") == {}


def test_smoothing_takes_a_lone_tile_by_its_neighbours(tmp_path: Path, model: Run) -> None:
    picture = np.empty((384, 384, 3), np.uint8)
    picture[:] = PINK
    picture[128:256, 128:256] = BLUE
    source = write_slide(tmp_path / "a.svs", [picture], 0.5)
    predict.run(config(source), tmp_path / "rough")
    predict.run(config(source, smoothing=True), tmp_path / "smooth")
    assert "blue tissue" in areas(tmp_path / "rough")
    assert "blue tissue" not in areas(tmp_path / "smooth")


def test_a_broken_tile_costs_that_tile(tmp_path: Path, model: Run) -> None:
    source = slide(tmp_path / "a.svs")
    break_tile(source, 0, 5)  # column 1, row 1 of 4 x 3: four tiles of the model
    assert predict.run(config(source), tmp_path / "out") == 3
    (fate,) = rows(tmp_path / "out" / "status.csv")
    assert (fate["status"], fate["failed_tiles"], fate["tiles"]) == ("partial", "4", "38")
    assert len(rows(tmp_path / "out" / "predictions.csv")) == 1


def test_a_dry_run_asks_some_tiles_and_writes_nothing(
    tmp_path: Path, model: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predict, "SAMPLE", 8)
    asked: list[int] = []
    embed = model.embed_images
    monkeypatch.setattr(model, "embed_images", lambda images: asked.append(len(images)) or embed(images))
    source = slide(tmp_path / "a.svs")
    (tmp_path / "b.svs").write_bytes(b"no slide")
    assert predict.run(config(source.parent, dry_run=True), tmp_path / "out") == 3
    printed = capsys.readouterr().out
    found = dict(line.split(": ", 1) for line in printed.splitlines())
    assert "refused: b.svs: " in printed
    assert found["tiles"] == "42"
    assert sum(asked) == 7  # every sixth
    assert 0 < float(found["hours"]) < 0.1
    assert 0 < float(found["gb"]) < 0.01
    assert not (tmp_path / "out").exists()


def test_a_model_without_resolution_refuses_every_slide_with_the_reason(tmp_path: Path, model: Run) -> None:
    model.geometry = Geometry(64, None)
    assert predict.run(config(slide(tmp_path / "a.svs")), tmp_path / "out") == 3
    (fate,) = rows(tmp_path / "out" / "status.csv")
    assert fate["status"] == "refused"
    assert "unknown scale" in fate["reason"]
    assert not (tmp_path / "out" / "maps").exists()


def test_an_empty_slide_is_ok_and_has_no_map(tmp_path: Path, model: Run) -> None:
    source = write_slide(tmp_path / "a.svs", [np.full((512, 512, 3), 243, np.uint8)], 0.5)
    assert predict.run(config(source), tmp_path / "out") == 0
    assert rows(tmp_path / "out" / "predictions.csv") == []
    (fate,) = rows(tmp_path / "out" / "status.csv")
    assert (fate["status"], fate["tiles"]) == ("ok", "0")


def test_prompts_come_from_the_user_or_from_the_run_and_one_alone_is_refused(tmp_path: Path, model: Run) -> None:
    source = slide(tmp_path / "a.svs")
    with pytest.raises(UserError, match="keeps no prompts"):
        predict.run(config(source, prompts=None), tmp_path / "none")
    with pytest.raises(UserError, match="at least two"):
        predict.run(config(source, prompts=["pink"]), tmp_path / "one")
    model.prompts = {"P": ["pink", "a pink one"], "B": ["blue"]}
    assert predict.run(config(source, prompts=None), tmp_path / "own") == 0
    assert set(areas(tmp_path / "own")) == {"P", "B"}


def test_a_scale_bar_is_round_and_at_most_a_quarter() -> None:
    assert scale_bar(1107, "um") == (200, "200 µm")
    assert scale_bar(20_000, "um") == (5000, "5 mm")
    assert scale_bar(9, "um") == (2, "2 µm")
    assert scale_bar(40_000, "m") == (10_000, "10 km")


def test_opacity_says_how_sure_the_most_probable_class_is() -> None:
    probabilities = np.array([[[0.5, 0.5], [0.0, 1.0], [np.nan, np.nan]]])
    layer = class_layer(np.array([[0, 1, -1]]), probabilities, class_colours(2))
    assert layer[0, :, 3].tolist() == [0.25, 0.75, 0.0]


def test_colours_stay_distinct_beyond_the_palette() -> None:
    assert len(set(class_colours(20))) == 20


def test_a_notebook_asks_as_the_command_line_does(tmp_path: Path, model: Run) -> None:
    import conf

    values = OmegaConf.load(Path(str(conf.__file__)).with_name("predict.yaml"))
    settings = predict.Settings()
    assert (values.tile.overlap, values.tile.min_coverage) == (settings.overlap, settings.min_coverage)
    assert (values.smoothing, values.threshold, values.batch_size) == (
        settings.smoothing, settings.threshold, settings.batch_size,
    )  # fmt: skip
    source = slide(tmp_path / "a.svs")
    model.config = OmegaConf.create(
        {"data": {"resolution": None}, "areas": {"_target_": "domains.pathology.outputs.qupath.QuPathGeoJson"}}
    )
    maps = predict.map_slide(model, SlideReader(), source, ["pink", "blue"], tmp_path / "out")
    assert maps.overlay.is_file()
    assert maps.areas.is_file()
    assert len(maps.tiles) == maps.summary["tiles"] == 42
    bare = write_slide(tmp_path / "b.svs", [np.full((256, 256, 3), PINK, np.uint8)], None, None)
    with pytest.raises(UserError, match="no microns per pixel"):
        predict.map_slide(model, SlideReader(), bare, ["pink", "blue"], tmp_path / "out")
