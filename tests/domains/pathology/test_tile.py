from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from core.run import tile
from core.types import UserError
from tests.core.raster.pictures import break_tile, noise, shrink, write_slide
from tests.domains.pathology.slides import SLIDES, needs_slides

EXPECTED = Path(__file__).with_name("expected_fates.csv")


def config(source: Path | None, **changed: object) -> DictConfig:
    """The keys of the verb, at their defaults."""
    keys: dict[str, object] = {
        "input": None if source is None else str(source),
        "manifest": None,
        "manifest_options": {},
        "reader": {"_target_": "domains.pathology.readers.SlideReader"},
        "data": {"resolution": None},
        "tile": {"size_px": 256, "resolution": 0.5, "overlap": 0.0, "min_coverage": 0.25, "verify": True},
        "dry_run": False,
        "allow_failures": 0,
        "debug": True,
    }
    return OmegaConf.merge(OmegaConf.create(keys), OmegaConf.create(changed))


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@needs_slides
def test_every_real_slide_has_the_fate_that_was_written_down_before_the_reader(tmp_path: Path) -> None:
    assert tile.run(config(SLIDES), tmp_path) == 3
    fates = {row["path"]: row for row in rows(tmp_path / "status.csv")}
    expected = {row["path"]: row for row in rows(EXPECTED)}
    assert set(fates) == set(expected)
    for name, wanted in expected.items():
        found = fates[name]
        assert found["status"] == wanted["status"], name
        assert wanted["reason"] in found["reason"], name
        if wanted["status"] == "refused":
            assert not (tmp_path / "tiles" / f"{name}.csv").exists()
            continue
        tiles = len(rows(tmp_path / "tiles" / f"{name}.csv"))
        assert int(found["tiles"]) == tiles, name
        assert tiles > 0 if wanted["tiles"] == ">0" else tiles == int(wanted["tiles"]), name
        assert found["failed_tiles"] == wanted["failed_tiles"], name
        assert (tmp_path / "thumbnails" / f"{name}.png").is_file()
    assert fates["dicom_boxes/boxes_0.dcm"]["files"] == "2"


def test_tiles_lie_on_the_tissue_and_nowhere_else(tmp_path: Path) -> None:
    picture = np.full((1024, 1536, 3), 243, np.uint8)
    picture[512:1024, 1024:1536] = noise(512, 512)
    path = write_slide(tmp_path / "in" / "a.svs", [picture, shrink(picture, 4)], 0.5)
    assert tile.run(config(path.parent), tmp_path / "out") == 0
    found = rows(tmp_path / "out" / "tiles" / "a.svs.csv")
    assert {(float(row["x"]), float(row["y"])) for row in found} == {
        (x, y) for x in (1024.0, 1280.0) for y in (512.0, 768.0)
    }
    assert {row["path"] for row in found} == {str(path.resolve())}
    overview = np.asarray(Image.open(tmp_path / "out" / "thumbnails" / "a.svs.png"))
    green = (overview == tile.KEPT).all(-1).nonzero()
    assert green[0].min() == pytest.approx(overview.shape[0] / 2, abs=1)
    assert green[1].min() == pytest.approx(overview.shape[1] * 2 / 3, abs=1)


def test_a_broken_tile_makes_a_slide_partial_and_is_named(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.svs", [noise(768, 768)], 0.5)
    break_tile(path, 0, 4)
    assert tile.run(config(path), tmp_path / "out") == 3
    (fate,) = rows(tmp_path / "out" / "status.csv")
    assert (fate["status"], fate["tiles"], fate["failed_tiles"]) == ("partial", "8", "1")
    assert "1 of 9 tiles cannot be read" in fate["reason"]
    (broken,) = rows(tmp_path / "out" / "failed_tiles.csv")
    assert (broken["path"], float(broken["x"]), float(broken["y"])) == ("a.svs", 256.0, 256.0)


def test_a_slide_of_which_no_tile_can_be_read_is_refused(tmp_path: Path) -> None:
    picture = noise(1024, 1024)
    path = write_slide(tmp_path / "a.svs", [picture, shrink(picture, 4)], 0.5)
    for number in range(16):
        break_tile(path, 0, number)  # the coarse level still shows tissue
    assert tile.run(config(path), tmp_path / "out") == 3
    (fate,) = rows(tmp_path / "out" / "status.csv")
    assert fate["status"] == "refused"
    assert "16 of 16 tiles cannot be read" in fate["reason"]


def test_a_manifest_supplies_the_missing_resolution(tmp_path: Path) -> None:
    write_slide(tmp_path / "a.svs", [noise(512, 512)], None, None)
    write_slide(tmp_path / "b.svs", [noise(512, 512)], None, None)
    table = tmp_path / "manifest.csv"
    table.write_text("path,mpp\na.svs,0.25\n")
    assert tile.run(config(tmp_path, manifest=str(table)), tmp_path / "out") == 3
    fates = {row["path"]: row for row in rows(tmp_path / "out" / "status.csv")}
    assert set(fates) == {"a.svs", "b.svs"}
    assert (fates["a.svs"]["status"], fates["a.svs"]["tiles"], fates["a.svs"]["resolution_source"]) == (
        "ok", "1", "supplied",
    )  # fmt: skip
    assert "manifest column mpp or as data.resolution=" in fates["b.svs"]["reason"]
    again = config(None, manifest=str(table))
    assert tile.run(again, tmp_path / "alone") == 0
    assert [row["path"] for row in rows(tmp_path / "alone" / "status.csv")] == ["a.svs"]
    assert tile.run(config(tmp_path / "b.svs", data={"resolution": 0.5}), tmp_path / "config") == 0


def test_tables_beside_slides_are_ignored_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "Schnitte, (Köln)"
    write_slide(folder / "a=1, b.svs", [noise(256, 256)], 0.5)
    (folder / "labels.csv").write_text("a,b\n")
    (folder / "notes.unknown").write_text("not a slide")
    assert tile.run(config(folder), tmp_path / "out") == 3
    assert "ignored: 1 files that are no pictures: labels.csv" in capsys.readouterr().out
    fates = {row["path"]: row["status"] for row in rows(tmp_path / "out" / "status.csv")}
    assert fates == {"a=1, b.svs": "ok", "notes.unknown": "refused"}


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_slide(tmp_path / "a.svs", [noise(512, 512)], 0.5)
    out = tmp_path / "out"
    out.mkdir()
    assert tile.run(config(path, dry_run=True), out) == 0
    found = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert found["tiles"] == "4"
    assert 0 < float(found["hours"]) < 0.1
    assert list(out.iterdir()) == []
    tile.run(config(path), out)
    written = sum(file.stat().st_size for file in out.rglob("*") if file.is_file() and file.parent != out)
    assert float(found["gb"]) * 1e9 == pytest.approx(written, rel=0.1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input": "nowhere"}, "'nowhere' does not exist"),
        ({"input": None}, "no slides are named"),
        ({"tile": {"overlap": 1.0}}, "tile.overlap is 1"),
        ({"tile": {"min_coverage": 0}}, "tile.min_coverage is 0"),
    ],
)
def test_wrong_keys_end_the_run_with_a_sentence(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = write_slide(tmp_path / "a.svs", [noise(256, 256)], 0.5)
    with pytest.raises(UserError, match=words):
        tile.run(config(path, **change), tmp_path / "out")


def test_an_unwritable_folder_is_no_fate_of_a_slide(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "a.svs", [noise(256, 256)], 0.5)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        tile.run(config(path), tmp_path / "file" / "out")
