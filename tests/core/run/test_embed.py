"""Claims about the verb `embed`: what it writes, what it skips, what it refuses, and that a kill changes nothing."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import timm
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import save_file

import core
from core.files import sha256
from core.mil.features import EmbeddedFeatures, read_bag, read_header
from core.models.dual_encoder import build
from core.models.encoder import ImageEncoder, encoder_of_entry
from core.models.weights import save_trained
from core.types import SUPPLIED, UserError, Window
from domains.pathology.readers import SlideReader
from tests.core.raster.pictures import break_tile, noise, write_slide
from tests.core.run.verbs import only_run, run

ROOT = Path(core.__file__).parents[1]
VIT = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
GEOMETRY = {"size_px": 32, "resolution": 1.0, "unit": "um", "mean": [0.5, 0.4, 0.6], "std": [0.2, 0.3, 0.25],
            "interpolation": "bicubic"}  # fmt: skip


def plain_vit(folder: Path, seed: int = 0, scale: float = 1.0) -> Path:
    """A weights entry of a timm ViT, as UNI-like encoders come; small and random."""
    torch.manual_seed(seed)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, **VIT)
    with torch.no_grad():
        model.norm.weight.mul_(scale)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "w.safetensors")
    entry = {"fills": "image", "image": {"tower": "timm:vit_tiny_patch16_224", "model_args": VIT},
             "file": "w.safetensors", "sha256": sha256(folder / "w.safetensors"),
             "key_map": {"": "image_tower.backbone."}, "geometry": GEOMETRY, "licence": "none: random"}  # fmt: skip
    (folder / "vit.yaml").write_text(yaml.safe_dump(entry))
    return folder / "vit.yaml"


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_vit(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three slides of 12, 16 and 20 tiles of the encoder, one without tissue, one that is none."""
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder / "a.svs", [noise(192, 256, 1)], 0.5)
    write_slide(folder / "site B" / "b, 1.svs", [noise(256, 256, 2)], 0.5)
    write_slide(folder / "c.svs", [noise(256, 320, 3)], 0.5)
    write_slide(folder / "empty.svs", [np.full((256, 256, 3), 243, np.uint8)], 0.5)
    (folder / "none.svs").write_bytes(b"no slide")
    return folder


def embed(tmp_path: Path, *arguments: str, out: str = "out") -> int:
    return run("embed", f"out={tmp_path / out}", f"output.root={tmp_path / 'runs'}", "debug=true", *arguments)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def status(tmp_path: Path) -> list[dict[str, str]]:
    return rows(only_run(tmp_path / "runs", "embed") / "status.csv")


def contents(folder: Path) -> dict[str, tuple[np.ndarray, ...]]:
    """Datasets of every feature file by name."""
    found = {}
    for name, path in EmbeddedFeatures().find(folder).items():
        with h5py.File(path) as file:
            found[name] = tuple(file[key][()] for key in sorted(file))
    return found


def assert_equal(one: dict[str, tuple[np.ndarray, ...]], two: dict[str, tuple[np.ndarray, ...]]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        assert all(np.array_equal(a, b) for a, b in zip(one[name], two[name], strict=True)), name


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the batches that reach the tower from now on."""
    shapes: list[tuple[int, ...]] = []
    call = ImageEncoder.__call__

    def counted(self: ImageEncoder, images: np.ndarray) -> np.ndarray:
        shapes.append(images.shape)
        return call(self, images)

    monkeypatch.setattr(ImageEncoder, "__call__", counted)
    return shapes


def test_features_are_those_of_the_tower_on_the_tiles_at_their_coordinates(
    tmp_path: Path, entry: Path, slides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(tmp_path, f"encoder={entry}", f"input={slides}", "batch_size=7") == 3
    printed = capsys.readouterr().out
    fates = {row["path"]: row for row in status(tmp_path)}
    assert {name: row["status"] for name, row in fates.items()} == {
        "a.svs": "ok", "c.svs": "ok", "empty.svs": "ok", "none.svs": "refused", "site B/b, 1.svs": "ok",
    }  # fmt: skip
    assert [fates[name]["tiles"] for name in ("a.svs", "c.svs", "empty.svs")] == ["12", "20", "0"]
    assert "no tile has enough content: 16 background" in fates["empty.svs"]["note"]
    assert "tiles: 48" in printed
    assert not (tmp_path / "out" / "none.svs.h5").exists()
    with pytest.raises(UserError, match="has no tile"):
        read_bag(tmp_path / "out" / "empty.svs.h5")

    tower = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, **VIT).eval()
    tower.load_state_dict(dict(encoder_of_entry(entry).tower.backbone.state_dict()))
    mean, std = (torch.tensor(GEOMETRY[key])[:, None, None] for key in ("mean", "std"))
    bag = read_bag(tmp_path / "out" / "site B" / "b, 1.svs.h5")
    assert (bag.id, bag.unit, bag.tile_size) == ("site B/b, 1.svs", "um", 32.0)
    assert bag.coordinates.tolist() == [[32.0 * x, 32.0 * y] for y in range(4) for x in range(4)]
    with SlideReader().open(slides / "site B" / "b, 1.svs") as raster:
        for (x, y), features in zip(bag.coordinates / 0.5, bag.features, strict=True):
            pixels = raster.read(Window(x, y, 64, 64), (32, 32), "bicubic").values
            image = (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255 - mean) / std
            with torch.no_grad():
                expected = tower(image)[0].numpy()
            assert np.linalg.norm(features - expected) <= 1e-3 * np.linalg.norm(expected)  # float16 keeps 1/2048

    known = read_header(tmp_path / "out" / "a.svs.h5").attributes
    assert (known.tile_px, known.tile_resolution, known.resolution_x, known.space) == (32, 1.0, 0.5, "pooled")
    assert known.weights_sha256 == sha256(entry.with_name("w.safetensors"))
    assert known.encoder.startswith("timm:vit_tiny_patch16_224/pooled@")


def test_batches_cross_the_borders_of_slides_and_leave_no_trace_in_them(
    tmp_path: Path, entry: Path, slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = count_calls(monkeypatch)
    embed(tmp_path, f"encoder={entry}", f"input={slides}", "batch_size=10", "workers=3")
    assert shapes == [(10, 32, 32, 3)] * 5  # 48 tiles of three slides
    embed(tmp_path, f"encoder={entry}", f"input={slides / 'c.svs'}", "batch_size=10", "workers=1", out="alone")
    alone = contents(tmp_path / "alone")
    assert_equal(alone, {"c.svs": contents(tmp_path / "out")["c.svs"]})


def test_a_broken_tile_is_left_out_counted_and_named_also_by_the_run_that_finds_the_slide_done(
    tmp_path: Path, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_slide(tmp_path / "in" / "a.svs", [noise(512, 512)], 0.5)
    break_tile(source, 0, 3)  # 16 of 64 tiles
    assert embed(tmp_path, f"encoder={entry}", f"input={source}") == 3
    folder = only_run(tmp_path / "runs", "embed")
    tables = {name: (folder / name).read_text() for name in ("status.csv", "failures.csv", "failed_tiles.csv")}
    (fate,) = rows(folder / "failures.csv")
    assert (fate["status"], fate["tiles"], fate["failed_tiles"]) == ("partial", "48", "16")
    assert "16 of 64 tiles cannot be read: " in fate["reason"]
    failed = {(int(row["x"]), int(row["y"])) for row in rows(folder / "failed_tiles.csv")}
    assert failed == {(x, y) for x in range(256, 512, 64) for y in range(256, 512, 64)}
    bag = read_bag(tmp_path / "out" / "a.svs.h5")
    assert len(bag) == 48
    assert not failed & {(int(x), int(y)) for x, y in bag.coordinates / 0.5}

    shapes = count_calls(monkeypatch)
    assert embed(tmp_path, f"encoder={entry}", f"input={source}") == 3
    again = only_run(tmp_path / "runs", "embed")
    assert again != folder
    assert shapes == []
    assert {name: (again / name).read_text() for name in tables} == tables


def test_a_slide_of_which_no_tile_can_be_read_is_refused(tmp_path: Path, entry: Path) -> None:
    picture = noise(256, 256)
    source = write_slide(tmp_path / "in" / "a.svs", [picture], 0.5)
    break_tile(source, 0, 0)
    assert embed(tmp_path, f"encoder={entry}", f"input={source}") == 3
    assert status(tmp_path)[0]["status"] == "refused"
    assert not (tmp_path / "out").exists()


def test_shards_share_the_work_and_make_one_folder(tmp_path: Path, entry: Path, slides: Path) -> None:
    common = (f"encoder={entry}", f"input={slides}", "allow_failures=all")
    assert embed(tmp_path, *common) == 0
    named = []
    for shard in ("1/2", "2/2"):
        assert embed(tmp_path, *common, f"shard={shard}", out="shards") == 0
        named += [row["path"] for row in status(tmp_path)]
    assert sorted(named) == ["a.svs", "c.svs", "empty.svs", "none.svs", "site B/b, 1.svs"]
    assert_equal(contents(tmp_path / "shards"), contents(tmp_path / "out"))


def test_only_what_is_missing_or_stale_is_made_again(
    tmp_path: Path, entry: Path, slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(slides, tmp_path / "in")
    common = (f"encoder={entry}", f"input={folder}", "allow_failures=all", "batch_size=20")
    embed(tmp_path, *common)
    before = contents(tmp_path / "out")
    damaged = tmp_path / "out" / "a.svs.h5"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    shapes = count_calls(monkeypatch)
    embed(tmp_path, *common)
    assert len(shapes) == 1
    assert_equal(contents(tmp_path / "out"), before)
    write_slide(folder / "c.svs", [noise(256, 256, 4)], 0.5)  # another slide under the same name
    embed(tmp_path, *common)
    assert len(shapes) == 2
    assert len(read_bag(tmp_path / "out" / "c.svs.h5")) == 16
    table = tmp_path / "slides.csv"
    table.write_text("path,mpp\nin/a.svs,0.25\n")  # the resolution was corrected: other tiles
    embed(tmp_path, *common, f"manifest={table}")
    assert len(shapes) == 3
    assert read_header(tmp_path / "out" / "a.svs.h5").attributes.resolution_source == SUPPLIED
    embed(tmp_path, *common)  # it was a mistake: the slide's own counts again
    assert len(shapes) == 4
    assert np.array_equal(contents(tmp_path / "out")["a.svs"][0], before["a.svs"][0])
    embed(tmp_path, *common)
    assert len(shapes) == 4


def test_a_manifest_names_slides_as_it_writes_them_and_one_row_a_window_is_one_slide(
    tmp_path: Path, entry: Path, slides: Path
) -> None:
    shutil.copytree(slides, tmp_path / "in")
    table = tmp_path / "tiles.csv"
    lines = ["in/a.svs,0,0,64,64", "in/a.svs,64,0,64,64", '"in/site B/b, 1.svs",0,0,64,64', "in/gone.svs,0,0,64,64"]
    table.write_text("\n".join(["path,x,y,w,h", *lines]))
    assert embed(tmp_path, f"encoder={entry}", f"manifest={table}") == 3
    assert {row["path"]: row["status"] for row in status(tmp_path)} == {
        "in/a.svs": "ok", "in/site B/b, 1.svs": "ok", "in/gone.svs": "refused",
    }  # fmt: skip
    assert sorted(contents(tmp_path / "out")) == ["in/a.svs", "in/site B/b, 1.svs"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("encoder=OTHER",), "its encoder is"),
        (("tile.min_coverage=0.5",), "its min_coverage is 0.25, this run's is 0.5"),
        (("tile.overlap=0.5",), "its overlap is 0.0, this run's is 0.5"),
        (("precision=bfloat16",), "its precision is float32, this run's is bfloat16"),
    ],
)
def test_features_of_another_kind_are_never_replaced_or_mixed(
    tmp_path: Path, entry: Path, slides: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, ...], words: str
) -> None:
    common = (f"encoder={entry}", f"input={slides / 'a.svs'}")
    embed(tmp_path, *common)
    before = (tmp_path / "out" / "a.svs.h5").read_bytes()
    other = plain_vit(tmp_path / "other", seed=1)
    assert embed(tmp_path, *common, *(text.replace("OTHER", str(other)) for text in change)) == 2
    assert words in capsys.readouterr().err
    assert (tmp_path / "out" / "a.svs.h5").read_bytes() == before


def test_a_file_of_a_newer_version_or_of_another_tool_is_not_touched(
    tmp_path: Path, entry: Path, slides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (f"encoder={entry}", f"input={slides / 'a.svs'}")
    embed(tmp_path, *common)
    with h5py.File(tmp_path / "out" / "a.svs.h5", "r+") as file:
        file.attrs["schema_version"] = 99
    assert embed(tmp_path, *common) == 2
    assert "schema version 99, newer" in capsys.readouterr().err
    with h5py.File(tmp_path / "out" / "a.svs.h5", "r+") as file:
        del file.attrs["schema_version"]
    assert embed(tmp_path, *common) == 2
    assert "not written by 'embed'" in capsys.readouterr().err


def test_a_trained_run_gives_unit_vectors_that_its_texts_find_or_pooled_features(tmp_path: Path, slides: Path) -> None:
    trained = small_run(tmp_path / "trained")
    model = core.load(trained)
    embed(tmp_path, f"run={trained}", f"input={slides / 'a.svs'}")
    bag = read_bag(tmp_path / "out" / "a.svs.h5")
    assert read_header(tmp_path / "out" / "a.svs.h5").attributes.space == "projected"
    assert read_header(tmp_path / "out" / "a.svs.h5").attributes.weights_sha256 == sha256(trained / "model.safetensors")
    with SlideReader().open(slides / "a.svs") as raster:
        places = [Window(x, y, 64, 64) for x, y in bag.coordinates / 0.5]
        tiles = np.stack([raster.read(place, (32, 32)).values.transpose(2, 0, 1) for place in places])
    expected = model.embed_images(tiles)
    assert np.linalg.norm(bag.features - expected) <= 1e-3 * np.linalg.norm(expected)
    assert bag.features.shape == (12, 8)
    embed(tmp_path, f"run={trained}", f"input={slides / 'a.svs'}", "space=pooled", out="pooled")
    pooled = read_bag(tmp_path / "pooled" / "a.svs.h5")
    assert pooled.encoder != bag.encoder
    with torch.no_grad():
        features = model.encoder.image_features(torch.from_numpy(tiles)).numpy()
    assert np.linalg.norm(pooled.features - features) <= 1e-3 * np.linalg.norm(features)


def small_run(folder: Path, resolution: float | None = 1.0) -> Path:
    """A run folder with the weights of a small random pair."""
    model = {
        "image": {"tower": "timm:vit_tiny_patch16_224", "model_args": VIT, "projection": "linear"},
        "text": {"tower": "open_clip:ViT-B-32", "model_args": {"width": 16, "heads": 2, "layers": 1}},
        "embed_dim": 8,
        "geometry": {"size_px": 32, "resolution": resolution, "unit": "um"},
    }
    folder.mkdir(parents=True)
    save_trained(build(**model), folder / "model.safetensors")  # type: ignore[arg-type]
    config: dict[str, Any] = {"model": {"_target_": "core.models.dual_encoder.build", **model}}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
    return folder


def test_everything_that_changes_a_feature_is_in_the_name_of_the_encoder(tmp_path: Path) -> None:
    entry = plain_vit(tmp_path)
    values = yaml.safe_load(entry.read_text())
    names = {encoder_of_entry(entry).name}
    for change in ({"activation": "quick_gelu"}, {"geometry": {**GEOMETRY, "resolution": 0.5}},
                   {"geometry": {**GEOMETRY, "mean": [0.1, 0.4, 0.6]}}):  # fmt: skip
        entry.write_text(yaml.safe_dump({**values, **change}))
        names.add(encoder_of_entry(entry).name)
    names.add(encoder_of_entry(plain_vit(tmp_path / "b", seed=3)).name)
    assert len(names) == 5
    assert encoder_of_entry(plain_vit(tmp_path / "c")).name in names  # the same file elsewhere is the same encoder


def test_features_beyond_float16_refuse_their_slide_by_name(tmp_path: Path, slides: Path) -> None:
    entry = plain_vit(tmp_path / "large", scale=1e6)
    assert embed(tmp_path, f"encoder={entry}", f"input={slides / 'a.svs'}") == 3
    (fate,) = status(tmp_path)
    assert fate["status"] == "refused"
    assert "features are not finite" in fate["reason"]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_estimates_and_writes_nothing(
    tmp_path: Path, entry: Path, slides: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(tmp_path, f"encoder={entry}", f"input={slides}", "dry_run=true", "batch_size=4") == 3
    printed = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line)
    assert printed["tiles"] == "48"
    assert printed["slides"] == "5 (ok 4, partial 0, refused 1)"
    assert float(printed["gb"]) == pytest.approx(48 * (2 * 16 + 16) / 1e9, rel=0.01)
    assert 0 < float(printed["hours"]) < 0.1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("encoder=null",), "no encoder is named"),
        (("run=RUN",), "a trained run and an encoder are named"),
        (("encoder=null", "run=RUN"), "pictures of unknown scale"),
        (("encoder=nowhere.yaml",), "nowhere.yaml' does not exist"),
        (("shard=0/4",), "shard is '0/4'"),
        (("shard=5/4",), "shard is '5/4'"),
        (("shard=half",), "write i/n"),
        (("batch_size=0",), "batch_size is 0"),
        (("workers=-1",), "workers is -1"),
        (("tile.overlap=1",), "tile.overlap is 1"),
        (("space=shared",), "space is 'shared'"),
        (("space=projected",), "shares no space with texts"),
        (("device=tpu",), "device 'tpu'"),
        (("precision=int8",), "precision is 'int8'"),
        (("input=null",), "no slides are named"),
    ],
)
def test_a_wrong_key_ends_the_run_with_a_sentence(
    tmp_path: Path,
    entry: Path,
    slides: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    trained = small_run(tmp_path / "trained", None) if any("RUN" in text for text in arguments) else Path()
    given = [text.replace("RUN", str(trained)) for text in arguments]
    assert embed(tmp_path, f"encoder={entry}", f"input={slides}", *given) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_resume_goes_on_in_the_folder_of_a_run_without_out(tmp_path: Path, entry: Path, slides: Path) -> None:
    arguments = [f"encoder={entry}", f"input={slides}", f"output.root={tmp_path}", "allow_failures=all"]
    assert run("embed", *arguments) == 0
    folder = only_run(tmp_path, "embed")
    before = contents(folder / "features")
    assert len(before) == 4
    (folder / "features" / "c.svs.h5").unlink()
    state = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**state, "state": "interrupted"}))
    assert run("embed", f"resume={folder}", f"output.root={tmp_path}") == 0
    assert_equal(contents(folder / "features"), before)


def test_kill_9_leaves_whole_files_and_the_same_features_in_the_end(tmp_path: Path, entry: Path) -> None:
    for number in range(12):
        write_slide(tmp_path / "in" / f"{number:02d}.svs", [noise(512, 512, number)], 0.5)
    arguments = [f"encoder={entry}", f"input={tmp_path / 'in'}", f"output.root={tmp_path / 'runs'}", "batch_size=24"]
    out = tmp_path / "killed"
    draw = random.Random(0)

    def whole() -> list[Path]:
        return [path for path in out.glob("*.h5") if not path.name.startswith(".")]

    for wanted in (1, 5):
        kill_when(arguments, out, lambda wanted=wanted: len(whole()) >= wanted, draw.uniform(0, 0.05))
        assert wanted <= len(whole()) < 12
        assert all(len(read_bag(path)) == 64 for path in whole())
    assert run("embed", *arguments, f"out={out}") == 0
    assert run("embed", *arguments, f"out={tmp_path / 'undisturbed'}") == 0
    # what a kill left half-written is hidden, and nobody reads it
    assert_equal(contents(out), contents(tmp_path / "undisturbed"))


def kill_when(arguments: list[str], out: Path, reached: Callable[[], bool], wait: float) -> None:
    """Starts the verb and kills it without warning a moment after something was reached."""
    command = [sys.executable, "-m", "domains.pathology.embed", *arguments, f"out={out}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while not reached() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert reached()
    assert process.returncode == -signal.SIGKILL
