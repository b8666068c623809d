from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.raster.check import check_reader
from core.raster.patch import cut
from core.raster.pyramid import PyramidRaster
from core.raster.reader import ReadError
from core.types import Geometry, NoResolution, Window
from domains.pathology.readers import SlideReader
from tests.core.raster.pictures import break_tile, noise, shrink, write_slide
from tests.domains.pathology.slides import SLIDES, needs_slides

READER = SlideReader()


def pyramid(path: Path, size: int = 1024) -> tuple[Path, np.ndarray]:
    picture = noise(size, size)
    return write_slide(path, [picture, shrink(picture, 4)], 0.5), picture


def test_a_slide_and_a_plain_image_keep_every_promise_of_a_reader(tmp_path: Path) -> None:
    check_reader(READER, pyramid(tmp_path / "a.svs")[0])
    Image.fromarray(noise(90, 130)).save(tmp_path / "b.png")
    check_reader(READER, tmp_path / "b.png")


@needs_slides
@pytest.mark.parametrize(
    "name", ["CMU-1-Small-Region.svs", "small.svs", "boxes.tiff", "dicom_sm/sm_image.dcm", "derived/crop-pyramid.svs"]
)
def test_real_slides_keep_every_promise_of_a_reader(name: str) -> None:
    check_reader(READER, SLIDES / name)


def test_one_broken_tile_costs_that_tile_and_the_slide_reads_on(tmp_path: Path) -> None:
    path, picture = pyramid(tmp_path / "a.svs")
    break_tile(path, 0, 5)  # column 1, row 1 of 4 x 4
    with READER.open(path) as slide:
        with pytest.raises(ReadError, match="cannot be read: Not a JPEG"):
            slide.read(Window(256, 256, 256, 256), (256, 256))
        for x, y in ((0, 0), (512, 256), (256, 512)):  # OpenSlide alone fails on all of these now
            pixels = slide.read(Window(x, y, 256, 256), (256, 256))
            assert np.abs(pixels.values.astype(int) - picture[y : y + 256, x : x + 256]).mean() < 4
        assert slide.unreadable == (Window(256, 256, 256, 256),)


def test_a_window_that_barely_touches_a_broken_tile_is_read_and_says_what_is_missing(tmp_path: Path) -> None:
    path, _ = pyramid(tmp_path / "a.svs")
    break_tile(path, 0, 5)
    with READER.open(path) as slide:
        pixels = slide.read(Window(0, 257 - 256, 256, 256), (256, 256))
        assert pixels.valid.all()
        pixels = slide.read(Window(256, 1, 256, 256), (256, 256))  # its last row is broken: 1/256
        assert not pixels.valid[-1].any()
        assert pixels.valid[:-1].all()


def test_a_corrupt_level_is_replaced_by_a_finer_one(tmp_path: Path) -> None:
    path, picture = pyramid(tmp_path / "a.svs")
    break_tile(path, 2, 0)  # the only tile of the coarse level; directory 1 is Aperio's thumbnail
    with READER.open(path) as slide:
        assert len(slide.levels) == 2
        pixels = slide.read(Window(0, 0, 1024, 1024), (256, 256))
        assert pixels.valid.all()
        assert np.abs(pixels.values.astype(int) - shrink(picture, 4)).mean() < 4
        assert slide.unreadable == ()


def test_threads_share_a_slide_while_one_of_them_meets_a_broken_tile(tmp_path: Path) -> None:
    path, picture = pyramid(tmp_path / "a.svs")
    break_tile(path, 0, 5)
    places = [(x, y) for x in range(0, 1024, 256) for y in range(0, 1024, 256)] * 6

    def good(place: tuple[int, int]) -> bool:
        try:
            pixels = slide.read(Window(*place, 256, 256), (256, 256))
        except ReadError:
            return False
        x, y = place
        return bool(np.abs(pixels.values.astype(int) - picture[y : y + 256, x : x + 256]).mean() < 4)

    with READER.open(path) as slide, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(good, places)) == [place != (256, 256) for place in places]


def _read_elsewhere(slide: PyramidRaster) -> np.ndarray:
    return slide.read(Window(100, 100, 64, 64), (64, 64)).values


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_open_slide_can_be_read_in_another_process(tmp_path: Path, method: str) -> None:
    path, _ = pyramid(tmp_path / "a.svs")
    with READER.open(path) as slide:
        here = _read_elsewhere(slide)
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert np.array_equal(pool.apply(_read_elsewhere, (slide,)), here)
        assert np.array_equal(_read_elsewhere(slide), here)
        assert len(pickle.dumps(slide)) < 10_000


def test_a_patch_has_the_same_microns_from_a_coarse_and_a_fine_scan(tmp_path: Path) -> None:
    picture = noise(1024, 1024)
    fine = READER.open(write_slide(tmp_path / "fine.svs", [picture], 0.25, 40))
    coarse = READER.open(write_slide(tmp_path / "coarse.svs", [shrink(picture, 2)], 0.5, 20))
    geometry = Geometry(128, 0.5)
    a, b = cut(fine, (512, 400), geometry), cut(coarse, (256, 200), geometry)
    assert np.abs(a.pixels.astype(int) - b.pixels).mean() < 4


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty.svs").touch()
    (tmp_path / "words.png").write_text("no picture")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "deep.tif")
    for name, words in (
        ("empty.svs", "damaged or cut off"),
        ("words.png", "neither OpenSlide nor Pillow"),
        ("deep.tif", "not 8-bit"),
        ("nothing.svs", "no such file"),
        (".", "is a folder"),
    ):
        with pytest.raises(ReadError, match=words):
            READER.open(tmp_path / name)


def test_a_cut_off_photograph_is_a_read_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(200, 200)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with READER.open(path) as picture, pytest.raises(ReadError, match="truncated"):
        picture.thumbnail(100)


def test_a_photograph_is_upright_and_without_transparency(tmp_path: Path) -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:10, :10] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    with READER.open(tmp_path / "a.png") as turned:
        assert turned.size == (40, 60)
        assert turned.thumbnail(60).values[2, -2].tolist() == [250, 250, 250]
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "b.png")
    with READER.open(tmp_path / "b.png") as clear:
        assert (clear.thumbnail(20).values == 255).all()


def test_dots_per_inch_of_a_photograph_are_no_microns(tmp_path: Path) -> None:
    Image.fromarray(noise(20, 20)).save(tmp_path / "a.jpg", dpi=(72, 72))
    with READER.open(tmp_path / "a.jpg") as picture:
        assert isinstance(picture.resolution, NoResolution)
        assert "352.78" in picture.resolution.reason


def test_a_mirax_slide_is_its_mrxs_file_and_tables_are_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    (tmp_path / "case.mrxs").touch()
    (tmp_path / "case" / "Data0000.dat").touch()
    assert READER.identify(tmp_path / "case.mrxs") is not None
    assert READER.identify(tmp_path / "case" / "Data0000.dat") is None
    assert READER.identify(tmp_path / "labels.csv") is None
    assert READER.identify(tmp_path / ".DS_Store") is None
    assert READER.identify(tmp_path / "scan.unknown") is not None


@needs_slides
def test_the_files_of_one_dicom_series_are_one_slide() -> None:
    first, second = SLIDES / "dicom_boxes" / "boxes_0.dcm", SLIDES / "dicom_boxes" / "boxes_1.dcm"
    assert READER.identify(first) == READER.identify(second)
    assert READER.identify(first) != READER.identify(SLIDES / "dicom_sm" / "sm_image.dcm")


@needs_slides
def test_label_and_macro_are_in_the_file_and_not_in_the_raster() -> None:
    with READER.open(SLIDES / "CMU-1-Small-Region.svs") as slide:
        assert "openslide.associated.label.width" in slide.metadata
        sizes = {(level.width, level.height) for level in slide.levels}
        assert sizes == {(2220, 2967)}
        whole = Image.fromarray(slide.read(Window(0, 0, 2220, 2967), (2220, 2967)).values)
        small = np.asarray(whole.resize((192, 256), Image.Resampling.BILINEAR))
        assert np.abs(small.astype(int) - slide.thumbnail(256).values).mean() < 1
