"""A bag that cannot be used is refused by name, and packing changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from core.mil.bags import Bag, PackedBags
from core.types import UserError


def bag(name: str = "a", tiles: int = 4, width: int = 3, **changes: Any) -> Bag:
    random = np.random.default_rng(tiles)
    fields: dict[str, Any] = {
        "features": random.normal(size=(tiles, width)).astype(np.float16),
        "coordinates": random.uniform(size=(tiles, 2)).astype(np.float32),
        "tile_size": 128.0,
        "unit": "um",
        "encoder": "vit@1234",
    }
    return Bag(name, **fields | changes)


def broken(value: float) -> np.ndarray:
    features = np.ones((4, 3), np.float16)
    features[2, 1] = value
    return features


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"features": np.empty((0, 3), np.float16), "coordinates": np.empty((0, 2), np.float32)}, "no tile"),
        ({"features": broken(np.nan)}, "1 of 4 tiles, first in tile 2"),
        ({"features": broken(np.inf)}, "infinite"),
        ({"features": np.ones((4, 3))}, "float64"),
        ({"features": np.ones(4, np.float32)}, "expected \\[T, D\\]"),
        ({"coordinates": np.ones((3, 2), np.float32)}, "expected \\[4, 2\\]"),
        ({"coordinates": np.ones((4, 2), np.int64)}, "int64"),
        ({"coordinates": np.full((4, 2), np.nan, np.float32)}, "not finite"),
        ({"tile_size": 0.0}, "tile size"),
        ({"tile_size": float("nan")}, "tile size"),
    ],
)
def test_a_bad_bag_is_refused_by_name(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=f"bag 'slide-7'.*{word}"):
        bag("slide-7", **changes)


def test_a_bag_of_one_tile_is_valid() -> None:
    assert len(PackedBags.pack([bag(tiles=1)]).features) == 1


@pytest.mark.parametrize(
    ("changes", "word"), [({"width": 5}, "width 3 and 5"), ({"encoder": "x@1"}, "x@1"), ({"unit": "m"}, "um and m")]
)
def test_bags_that_do_not_go_together_are_refused_by_name(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=f"'a' and 'b' do not go together: .*{word}"):
        PackedBags.pack([bag("a"), bag("b", **changes)])


def test_an_empty_pack_is_refused() -> None:
    with pytest.raises(UserError, match="at least one bag"):
        PackedBags.pack([])


def test_packing_keeps_every_tile_of_every_bag_in_order() -> None:
    bags = [bag("a", 4), bag("b", 1), bag("c", 6)]
    pack = PackedBags.pack(bags)
    assert pack.ids == ("a", "b", "c")
    assert len(pack) == 3
    assert pack.offsets.tolist() == [0, 4, 5, 11]
    assert pack.lengths.tolist() == [4, 1, 6]
    assert pack.owner.tolist() == [0] * 4 + [1] + [2] * 6
    assert pack.features.dtype == torch.float32
    for one, a, b in zip(bags, pack.offsets[:-1], pack.offsets[1:], strict=True):
        assert np.array_equal(pack.features[a:b].numpy(), one.features.astype(np.float32))
        assert np.array_equal(pack.coordinates[a:b].numpy(), one.coordinates)


def test_a_part_is_what_packing_its_bags_gives_and_copies_nothing() -> None:
    bags = [bag("a", 4), bag("b", 1), bag("c", 6)]
    pack = PackedBags.pack(bags)
    part, alone = pack.part(1, 3), PackedBags.pack(bags[1:])
    assert part.ids == alone.ids
    assert torch.equal(part.offsets, alone.offsets)
    assert torch.equal(part.features, alone.features)
    assert torch.equal(part.coordinates, alone.coordinates)
    assert part.features.untyped_storage().data_ptr() == pack.features.untyped_storage().data_ptr()


def test_offsets_stay_on_the_host() -> None:
    moved = PackedBags.pack([bag("a"), bag("b")]).to("meta")
    assert moved.features.device.type == moved.coordinates.device.type == "meta"
    assert moved.offsets.tolist() == [0, 4, 8]
