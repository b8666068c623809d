"""Claims about features of other tools: twins of one slide in each layout are one bag; what is missing is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from core.mil.bags import Bag
from core.mil.features import FeatureLayout, read_bag, write_features
from core.types import UserError
from domains.pathology.features.clam import ClamFeatures
from domains.pathology.features.slide2vec import Slide2VecFeatures
from domains.pathology.features.stamp import StampFeatures
from domains.pathology.features.trident import TridentFeatures
from tests.domains.pathology.twins import (
    ATTRIBUTES_AT_MPP,
    MPP,
    SIDE_PX,
    TILES,
    clam,
    slide,
    slide2vec,
    stamp,
    trident,
)

Maker = Callable[..., Path]
LAYOUTS: dict[str, tuple[FeatureLayout, Maker, float | None]] = {
    "clam": (ClamFeatures(encoder="uni"), clam, MPP),
    "trident": (TridentFeatures(), trident, MPP),
    "stamp": (StampFeatures(), stamp, None),
    "slide2vec": (Slide2VecFeatures(), slide2vec, None),
}


def only_bag(layout: FeatureLayout, folder: Path, mpp: float | None) -> Bag:
    found = layout.find(folder)
    assert list(found) == ["s1"]
    return layout.read(found["s1"], "s1", mpp)


@pytest.mark.parametrize("name", LAYOUTS)
def test_twins_of_every_layout_are_the_bag_of_our_own(tmp_path: Path, name: str) -> None:
    layout, make, mpp = LAYOUTS[name]
    corners, features = slide()
    write_features(tmp_path / "own.h5", corners, features, ATTRIBUTES_AT_MPP)
    own, bag = read_bag(tmp_path / "own.h5"), only_bag(layout, make(tmp_path / name), mpp)
    assert bag.id == "s1"
    assert bag.unit == own.unit == "um"
    assert bag.tile_size == own.tile_size == 112.0
    assert np.array_equal(bag.coordinates, own.coordinates)
    assert np.array_equal(bag.features, own.features)
    assert bag.encoder == ("uni_v1" if name == "trident" else "uni")


def test_what_we_write_reads_as_tridents(tmp_path: Path) -> None:
    corners, features = slide()
    write_features(tmp_path / "s1.h5", corners, features, ATTRIBUTES_AT_MPP)
    own, theirs = read_bag(tmp_path / "s1.h5"), only_bag(TridentFeatures(), tmp_path, MPP)
    assert np.array_equal(own.coordinates, theirs.coordinates)
    assert (own.tile_size, own.encoder) == (theirs.tile_size, theirs.encoder)


@pytest.mark.parametrize(("name", "other"), [(a, b) for a in LAYOUTS for b in LAYOUTS if a != b])
def test_a_folder_that_is_not_what_it_claims_says_what_it_is(tmp_path: Path, name: str, other: str) -> None:
    layout, folder = LAYOUTS[name][0], LAYOUTS[other][1](tmp_path)
    called = {"stamp": "STAMP", "slide2vec": "slide2vec"}.get(other, other.upper())
    with pytest.raises(UserError, match=f"holds no features of .*{called}"):
        only_bag(layout, folder, MPP)


def test_folders_of_other_things_are_named(tmp_path: Path) -> None:
    (tmp_path / "readme.md").touch()
    for layout in (layout for layout, _, _ in LAYOUTS.values()):
        with pytest.raises(UserError, match=r"1 \.md"):
            layout.find(tmp_path)
        with pytest.raises(UserError, match="is no folder"):
            layout.find(tmp_path / "nowhere")
    clam(tmp_path / "c")
    for layout in (ClamFeatures(), TridentFeatures(), StampFeatures()):
        with pytest.raises(UserError, match="CLAM's coordinates, without features"):
            layout.read(tmp_path / "c" / "patches" / "s1.h5", "s1", MPP)


def test_several_encoders_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    place = trident(tmp_path / "t")
    (place.parent / "features_conch").mkdir()
    (place.parent / "features_conch" / "s1.h5").write_bytes((place / "s1.h5").read_bytes())
    with pytest.raises(UserError, match=r"features_conch, .*features_uni_v1"):
        TridentFeatures().find(tmp_path / "t")
    assert list(TridentFeatures().find(place)) == ["s1"]


def test_the_missing_resolution_of_clam_and_trident_is_asked_for_and_never_guessed(tmp_path: Path) -> None:
    for layout, folder in ((ClamFeatures(), clam(tmp_path / "c")), (TridentFeatures(), trident(tmp_path / "t"))):
        with pytest.raises(UserError, match=r"no microns per pixel.*manifest column mpp"):
            only_bag(layout, folder, None)
        with pytest.raises(UserError, match=r"352\.0 microns per pixel were supplied"):
            only_bag(layout, folder, 352.0)
    with pytest.raises(UserError, match="no microns per pixel"):
        only_bag(Slide2VecFeatures(), slide2vec(tmp_path / "s", mpp=None), None)
    assert only_bag(ClamFeatures(), clam(tmp_path / "with", tags={"mpp": MPP}), None).tile_size == 112.0


def test_tridents_magnification_contradicts_a_slip_in_the_manifest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2\.5 microns per pixel and TRIDENT says 40x"):
        only_bag(TridentFeatures(), trident(tmp_path), 2.5)


def test_clam_without_its_patches_is_refused(tmp_path: Path) -> None:
    folder = clam(tmp_path / "a")
    (tmp_path / "a" / "patches").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"patches file s1\.h5, which says how large a tile is"):
        only_bag(ClamFeatures(), folder, MPP)
    assert only_bag(ClamFeatures(tmp_path / "elsewhere", "uni"), folder, MPP).encoder == "uni"
    assert only_bag(ClamFeatures(tmp_path / "elsewhere"), folder, MPP).encoder == "clam:FEATURES"
    corners, _ = slide()
    with pytest.raises(UserError, match="belong to different runs"):
        only_bag(ClamFeatures(), clam(tmp_path / "b", tiled=corners + 1), MPP)
    (folder / "h5_files").rename(folder / "pt_files")
    with pytest.raises(UserError, match="have no coordinates"):
        ClamFeatures().find(folder)


def test_coordinates_in_the_wrong_unit_are_refused(tmp_path: Path) -> None:
    corners, _ = slide()
    for make, layout, name in ((clam, ClamFeatures(), "CLAM"), (trident, TridentFeatures(), "TRIDENT")):
        with pytest.raises(UserError, match=f"{name}'s are level-0 pixels.*microns"):
            only_bag(layout, make(tmp_path / name, coords=corners * 0.2527), MPP)
    with pytest.raises(UserError, match=r"no tile is nearer .* another unit"):
        only_bag(StampFeatures(), stamp(tmp_path / "px", coords=corners.astype(np.float32)), None)
    with pytest.raises(UserError, match="in 'px', not in microns"):
        only_bag(StampFeatures(), stamp(tmp_path / "said", tags={"unit": "px"}), None)
    with pytest.raises(UserError, match="outside of the slide"):
        only_bag(TridentFeatures(), trident(tmp_path / "out", tags={"level0_width": 4000}), MPP)


def test_every_generation_of_stamp_is_the_same_bag(tmp_path: Path) -> None:
    new = only_bag(StampFeatures(), stamp(tmp_path / "new"), None)
    old = only_bag(StampFeatures(), stamp(tmp_path / "old", only={"tile_size": 112.0, "unit": "um"}), None)
    assert old.tile_size == new.tile_size
    assert np.array_equal(old.coordinates, new.coordinates)
    corners, _ = slide()
    oldest = only_bag(StampFeatures(), stamp(tmp_path / "oldest", coords=corners // 2, only={}), None)  # 224 a tile
    assert oldest.tile_size == 256.0
    assert np.allclose(oldest.coordinates, corners / SIDE_PX * 256)
    with pytest.raises(UserError, match="how large a tile is, and its tiles are 448 apart"):
        only_bag(StampFeatures(), stamp(tmp_path / "other", coords=corners, only={}), None)
    with pytest.raises(UserError, match=r"STAMP 3\.0\.0, newer than 2"):
        only_bag(StampFeatures(), stamp(tmp_path / "newer", tags={"stamp_version": "3.0.0"}), None)


def test_embeddings_of_whole_slides_are_no_bags(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'slide', not one a tile"):
        only_bag(StampFeatures(), stamp(tmp_path / "a", tags={"feat_type": "slide"}), None)
    with pytest.raises(UserError, match="one vector for a whole slide"):
        only_bag(TridentFeatures(), trident(tmp_path / "b", features=np.zeros(6, np.float32)), MPP)
    with pytest.raises(UserError, match="slide_embeddings"):
        only_bag(Slide2VecFeatures(), slide2vec(tmp_path / "c", said={"artifact_type": "slide_embeddings"}), None)
    with pytest.raises(UserError, match="expected one row a tile"):
        only_bag(Slide2VecFeatures(), slide2vec(tmp_path / "d", features=np.zeros((5, 6, 6), np.float32)), None)


def test_features_and_coordinates_must_be_as_many_and_finite(tmp_path: Path) -> None:
    _, features = slide()
    with pytest.raises(UserError, match=f"29 features and {TILES} coordinates"):
        only_bag(TridentFeatures(), trident(tmp_path / "a", features=features[1:]), MPP)
    features[3] = np.nan
    with pytest.raises(UserError, match="NaN"):
        only_bag(TridentFeatures(), trident(tmp_path / "b", features=features), MPP)


def test_slide2vec_reads_both_of_its_formats_and_refuses_code(tmp_path: Path) -> None:
    bags = [only_bag(Slide2VecFeatures(), slide2vec(tmp_path / kind, kind=kind), None) for kind in ("pt", "npz")]
    assert np.array_equal(bags[0].features, bags[1].features)
    file = tmp_path / "pt" / "tile_embeddings" / "s1.pt"
    torch.save(Path("code"), file)
    with pytest.raises(UserError, match="cannot be read as a tensor"):
        only_bag(Slide2VecFeatures(), tmp_path / "pt", None)
    (tmp_path / "npz" / "tiles" / "s1.coordinates.npz").write_bytes(b"PK broken")
    with pytest.raises(UserError, match="cannot be read"):
        only_bag(Slide2VecFeatures(), tmp_path / "npz", None)


def test_attributes_that_are_missing_or_no_numbers_are_named_with_their_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no attribute 'downsample'.*patches.s1\.h5"):
        only_bag(ClamFeatures(), clam(tmp_path / "a", without=("downsample",)), MPP)
    with pytest.raises(UserError, match=r"'patch_size' is 'large', no number.*patches.s1\.h5"):
        only_bag(ClamFeatures(), clam(tmp_path / "b", tags={"patch_size": "large"}), MPP)
    with pytest.raises(UserError, match=r"'patch_size_level0' is 'large', no number.*s1\.h5"):
        only_bag(TridentFeatures(), trident(tmp_path / "c", tags={"patch_size_level0": "large"}), MPP)
    with pytest.raises(UserError, match=r"'tile_size_um' is 'large', no number.*s1\.h5"):
        only_bag(StampFeatures(), stamp(tmp_path / "d", tags={"tile_size_um": "large"}), None)
    with pytest.raises(UserError, match=r"coordinates have shape \(4,\).*s1\.h5"):
        only_bag(StampFeatures(), stamp(tmp_path / "e", coords=np.zeros(4, np.float32)), None)


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        ({"slide": None}, r"no 'slide\.base_spacing_um'"),
        ({"slide": {"base_spacing_um": "fine"}}, r"'slide\.base_spacing_um' is 'fine', no number"),
        ({"tiling": [224]}, r"no 'tiling\.tile_size_lv0'"),
        ({"tiling": {"tile_size_lv0": None}}, r"no tiling\.tile_size_lv0"),
    ],
)
def test_what_slide2vec_left_out_is_named_with_its_file(tmp_path: Path, scale: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=rf"{words}.*s1\.coordinates\.meta\.json"):
        only_bag(Slide2VecFeatures(), slide2vec(tmp_path, scale=scale), None)


def test_slide2vecs_files_of_another_kind_are_refused_by_name(tmp_path: Path) -> None:
    folder = slide2vec(tmp_path, kind="npz")
    np.savez(folder / "tiles" / "s1.coordinates.npz", x=np.zeros(3), y=np.zeros(4))
    with pytest.raises(UserError, match=r"x and y of each tile.*s1\.coordinates\.npz"):
        only_bag(Slide2VecFeatures(), folder, None)
    with (folder / "tiles" / "s1.coordinates.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match=r"s1\.coordinates\.npz' cannot be read"):
        only_bag(Slide2VecFeatures(), folder, None)
    (folder / "tile_embeddings" / "s1.meta.json").write_text("[1, 2]")
    with pytest.raises(UserError, match=r"s1\.meta\.json' holds a list"):
        only_bag(Slide2VecFeatures(), folder, None)
