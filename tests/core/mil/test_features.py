"""Claims about feature files: what is written comes back, in physical units, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from core.mil.features import (
    CHUNK_BYTES,
    SCHEMA_VERSION,
    DamagedFile,
    EmbeddedFeatures,
    FeatureAttributes,
    open_hdf5,
    read_bag,
    read_header,
    write_features,
)
from core.types import UserError

ATTRIBUTES = FeatureAttributes(
    name="site A/slide, 1.svs",
    encoder="timm:vit/pooled@0123456789ab",
    weights_sha256="0" * 64,
    space="pooled",
    precision="float32",
    resolution_x=0.25,
    resolution_y=0.26,
    resolution_source="openslide.mpp-x",
    unit="um",
    width=9000,
    height=7000,
    tile_px=224,
    tile_resolution=0.5,
    overlap=0.0,
    min_coverage=0.25,
    grid_tiles=99,
    slide_bytes=1234,
)


def tiles(count: int, width: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 7000, (count, 2)), rng.normal(size=(count, width)).astype(np.float16)


def test_a_bag_is_in_physical_units_from_the_level_0_origin(tmp_path: Path) -> None:
    coords, features = tiles(50)
    failed = np.array([[10, 20], [30, 40]])
    write_features(tmp_path / "a" / "b.h5", coords, features, ATTRIBUTES, failed)
    bag = read_bag(tmp_path / "a" / "b.h5")
    assert (bag.id, bag.encoder, bag.unit) == (ATTRIBUTES.name, ATTRIBUTES.encoder, "um")
    assert bag.tile_size == 112.0
    assert np.array_equal(bag.features, features)
    assert bag.features.dtype == np.float16
    assert np.array_equal(bag.coordinates, (coords * [0.25, 0.26]).astype(np.float32))
    header = read_header(tmp_path / "a" / "b.h5")
    assert header.attributes == ATTRIBUTES
    assert header.tiles == 50
    assert np.array_equal(header.failed, failed)


@pytest.mark.parametrize(("count", "width"), [(1, 3), (5, 1536), (100_000, 64)])
def test_chunks_are_about_a_mebibyte_and_never_one_row_of_many(tmp_path: Path, count: int, width: int) -> None:
    coords, features = np.zeros((count, 2), np.int64), np.zeros((count, width), np.float16)
    write_features(tmp_path / "a.h5", coords, features, ATTRIBUTES)
    with h5py.File(tmp_path / "a.h5") as file:
        rows, columns = file["features"].chunks
        assert columns == width
        assert rows == min(count, CHUNK_BYTES // (2 * width))
        assert file["coords"].dtype == np.int64
    assert (tmp_path / "a.h5").stat().st_size < 1.1 * (features.nbytes + coords.nbytes) + CHUNK_BYTES + 20_000


def test_a_newer_schema_is_refused_by_name(tmp_path: Path) -> None:
    write_features(tmp_path / "a.h5", *tiles(3), ATTRIBUTES)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["schema_version"] = SCHEMA_VERSION + 1
    for read in (read_bag, read_header):
        with pytest.raises(
            UserError, match=f"schema version {SCHEMA_VERSION + 1}, newer than {SCHEMA_VERSION}"
        ) as caught:
            read(tmp_path / "a.h5")
        assert not isinstance(caught.value, DamagedFile)  # a damaged file is made anew, a newer one is not touched


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e6])
def test_features_that_are_not_finite_are_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    coords, features = tiles(5)
    broken = features.astype(np.float32)
    broken[3, 2] = value
    with np.errstate(over="ignore"), pytest.raises(UserError, match="features of 1 of 5 tiles are not finite"):
        write_features(tmp_path / "a.h5", coords, broken.astype(np.float16), ATTRIBUTES)
    assert list(tmp_path.iterdir()) == []
    write_features(tmp_path / "a.h5", coords, features, ATTRIBUTES)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["features"][3, 2] = np.inf
    with pytest.raises(UserError, match=r"slide, 1.svs.* infinite"):
        read_bag(tmp_path / "a.h5")


def test_a_slide_without_tiles_is_kept_with_the_reason_and_gives_no_bag(tmp_path: Path) -> None:
    nothing = replace(ATTRIBUTES, note="no tile has enough content: 99 background")
    write_features(tmp_path / "a.h5", np.zeros((0, 2), np.int64), np.zeros((0, 8), np.float16), nothing)
    assert read_header(tmp_path / "a.h5").tiles == 0
    with pytest.raises(UserError, match="no tile has enough content: 99 background"):
        read_bag(tmp_path / "a.h5")


def test_a_file_cut_anywhere_is_damaged_and_never_a_smaller_bag(tmp_path: Path) -> None:
    coords, features = tiles(400)
    write_features(tmp_path / "whole.h5", coords, features, ATTRIBUTES)
    content = (tmp_path / "whole.h5").read_bytes()
    for length in np.linspace(0, len(content) - 1, 23).astype(int):
        (tmp_path / "cut.h5").write_bytes(content[:length])
        with pytest.raises(DamagedFile):
            read_bag(tmp_path / "cut.h5")


def without_features(file: h5py.File) -> None:
    del file["features"]


def as_group(file: h5py.File) -> None:
    del file["features"]
    file.create_group("features")


def as_words(file: h5py.File) -> None:
    del file["coords"]
    file["coords"] = [["a", "b"]] * 5


def failed_in_a_row(file: h5py.File) -> None:
    del file["failed_coords"]
    file["failed_coords"] = np.zeros(3, np.int64)


def version_in_words(file: h5py.File) -> None:
    file.attrs["schema_version"] = "one"


def resolution_in_words(file: h5py.File) -> None:
    file.attrs["resolution_x"] = "wide"


@pytest.mark.parametrize(
    ("harm", "read"),
    [
        (without_features, read_bag),
        (without_features, read_header),
        (as_group, read_bag),
        (as_words, read_bag),
        (failed_in_a_row, read_header),
        (version_in_words, read_bag),
        (resolution_in_words, read_header),
    ],
)
def test_damaged_structure_is_named_with_its_file(
    tmp_path: Path, harm: Callable[[h5py.File], None], read: Callable[[Path], object]
) -> None:
    write_features(tmp_path / "a.h5", *tiles(5), ATTRIBUTES)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        harm(file)
    with pytest.raises(DamagedFile, match=r"a\.h5"):
        read(tmp_path / "a.h5")


@pytest.mark.parametrize("error", [OSError, KeyError, RuntimeError, ValueError, TypeError])
def test_what_h5py_raises_of_an_open_file_is_its_damage(tmp_path: Path, error: type[Exception]) -> None:
    write_features(tmp_path / "a.h5", *tiles(5), ATTRIBUTES)
    with pytest.raises(DamagedFile, match=r"a\.h5.*bad symbol table"), open_hdf5(tmp_path / "a.h5"):
        raise error("bad symbol table")


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    coords, features = tiles(5)
    write_features(tmp_path / "a.h5", coords, features, ATTRIBUTES)
    with pytest.raises(UserError, match="expected"):
        write_features(tmp_path / "a.h5", coords[:4], features, ATTRIBUTES)
    with pytest.raises(TypeError):
        write_features(tmp_path / "a.h5", coords, features, replace(ATTRIBUTES, note=object()))  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    assert np.array_equal(read_bag(tmp_path / "a.h5").features, features)


def test_other_files_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(UserError, match="no HDF5 file"):
        read_bag(tmp_path / "text.h5")
    with h5py.File(tmp_path / "clam.h5", "w") as file:
        file["features"], file["coords"] = np.zeros((2, 3)), np.zeros((2, 2))
    with pytest.raises(UserError, match="not written by 'embed'"):
        read_bag(tmp_path / "clam.h5")
    with pytest.raises(UserError, match="does not exist"):
        read_bag(tmp_path / "nowhere.h5")


def test_a_folder_gives_its_bags_by_name_and_none_that_is_being_written(tmp_path: Path) -> None:
    for name in ("b.svs.h5", "site A/slide, 1.svs.h5", "site A/.writing-xyz.h5"):
        write_features(tmp_path / name, *tiles(3), ATTRIBUTES)
    layout = EmbeddedFeatures()
    found = layout.find(tmp_path)
    assert list(found) == ["b.svs", "site A/slide, 1.svs"]
    assert len(layout.read(found["b.svs"], "b.svs")) == 3
    for empty in (tmp_path / "nowhere", tmp_path / "b.svs.h5"):
        with pytest.raises(UserError, match="no folder"):
            layout.find(empty)
