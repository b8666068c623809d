"""Bags of a manifest: what becomes one bag, what is left out and named, batches that depend on (seed, step) alone."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from core.data.manifest import Manifest
from core.mil.bags import Bag
from core.mil.cohort import joined, read_ahead, same_scale, usual_size
from core.mil.data import BagBatch, BagDataModule
from core.mil.sampler import TokenBudgetSampler
from core.types import UserError

SAMPLER = partial(TokenBudgetSampler, bags_per_batch=4, tokens=10**6, seed=0)


@dataclass
class Store:
    """Features by slide id; ``changes`` are fields of single slides, ``broken`` raise what they hold."""

    changes: dict[str, dict[str, object]] = field(default_factory=dict)
    broken: dict[str, Exception] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)

    def __call__(self, name: str) -> Bag:
        self.reads.append(name)
        if name in self.broken:
            raise self.broken[name]
        random = np.random.default_rng(int(name[1:]))
        changes = self.changes.get(name, {})
        drawn, width = int(random.integers(1, 30)), changes.get("width", 5)
        tiles = int(str(changes.get("tiles", drawn)))
        bag = Bag(
            name,
            random.normal(size=(tiles, int(str(width)))).astype(np.float16),
            random.uniform(size=(tiles, 2)).astype(np.float32),
            float(str(changes.get("tile_size", 128.0))),
            "mm" if changes.get("unit") == "mm" else "um",
            str(changes.get("encoder", "vit@1")),
        )
        return bag


def manifest(slides: int = 24, groups: Sequence[str] | None = None, splits: Sequence[str] | None = None) -> Manifest:
    """Slides s0, s1 ...; two by two of one patient, patients dealt to train, train, val, test unless told otherwise."""
    frame = pd.DataFrame({"id": [f"s{number}" for number in range(slides)]})
    frame["group"] = groups or [f"p{number // 2}" for number in range(slides)]
    dealt = ("train", "train", "val", "test")
    frame["split"] = splits or [dealt[number // 2 % 4] for number in range(slides)]
    return Manifest(frame.assign(row=np.arange(slides)), Path("slides.csv"), Path(), "")


def module(store: Store | None = None, table: Manifest | None = None, **options: object) -> BagDataModule:
    table = table or manifest()
    labels = {"label": np.array([int(name[1:]) % 2 for name in table.frame["group"]])}
    given: dict[str, object] = {"labels": labels} | options
    return BagDataModule(table, store or Store(), SAMPLER, **given)  # type: ignore[arg-type]


def ready(*args: object, **options: object) -> BagDataModule:
    data = module(*args, **options)  # type: ignore[arg-type]
    data.prepare(progress=False)
    return data


def same(one: BagBatch, other: BagBatch) -> bool:
    return (
        one.ids == other.ids == one.bags.ids
        and one.step == other.step
        and torch.equal(one.bags.features, other.bags.features)
        and torch.equal(one.bags.offsets, other.bags.offsets)
        and all(torch.equal(one.labels[name], other.labels[name]) for name in other.labels)
    )


# --------------------------------------------------------------------------------------------------------------------
# What a bag is


def test_slides_of_a_patient_become_one_bag_in_file_order() -> None:
    data, store = ready(), Store()
    first, second = store("s0"), store("s1")
    bag = data.bag("p0")
    assert bag.id == "p0"
    assert np.array_equal(bag.features, np.concatenate([first.features, second.features]))
    assert np.array_equal(bag.coordinates, np.concatenate([first.coordinates, second.coordinates]))
    assert data.slides("p0") == (("s0", len(first)), ("s1", len(second)))


def test_a_bag_may_be_a_slide_and_still_knows_its_patient() -> None:
    data = ready(bag_of="id")
    assert data.ids("val") == ("s4", "s5", "s12", "s13", "s20", "s21")
    assert data.units("val") == ("p2", "p2", "p6", "p6", "p10", "p10")
    assert data.rows("val").tolist() == [4, 5, 12, 13, 20, 21]


def test_everything_of_a_split_is_in_one_order() -> None:
    data = ready()
    assert data.ids("test") == ("p3", "p7", "p11")
    assert data.rows("test").tolist() == [6, 14, 22]
    assert data.labels("test")["label"].tolist() == [1, 1, 1]
    assert data.lengths("test").tolist() == [len(data.bag(name)) for name in data.ids("test")]


def test_a_patient_in_two_splits_is_refused_by_name() -> None:
    splits = ["train", "test"] + ["train"] * 22
    with pytest.raises(UserError, match="1 groups \\(patients\\) are in more than one split: p0"):
        module(table=manifest(splits=splits))


def test_slides_of_a_patient_that_disagree_are_refused_unless_each_is_a_bag() -> None:
    labels = {"label": np.array([0, 1] + [0] * 22)}
    with pytest.raises(UserError, match="slides of 'p0' have different values of label: 0, 1"):
        module(labels=labels)
    assert ready(labels=labels, bag_of="id").labels("train")["label"][:2].tolist() == [0, 1]


def test_a_label_said_once_holds_for_all_slides_of_a_patient() -> None:
    labels = {"time": np.array([7.5, np.nan] + [1.0] * 22)}
    assert ready(labels=labels).labels("train")["time"][0] == 7.5


# --------------------------------------------------------------------------------------------------------------------
# What is left out


def refused(store: Store, **options: object) -> tuple[BagDataModule, dict[str, str]]:
    data = module(store, **options)  # type: ignore[arg-type]
    fates = data.prepare(progress=False)
    assert [fate.path for fate in fates if fate.status == "ok"]
    return data, {fate.path: fate.reason for fate in fates if fate.status == "refused"}


def test_a_slide_without_features_is_named_and_its_patient_keeps_the_other() -> None:
    data, reasons = refused(Store(broken={"s1": UserError("no features", "s1.h5")}))
    assert reasons == {"s1": "no features; s1.h5"}
    assert data.slides("p0") == (("s0", len(data.bag("p0"))),)


def test_a_patient_without_any_features_is_left_out_and_both_slides_are_named() -> None:
    data, reasons = refused(Store(broken={"s0": OSError("disk"), "s1": UserError("empty bag")}))
    assert reasons == {"s0": "disk", "s1": "empty bag"}
    assert "p0" not in data.ids("train")
    assert "p0" not in {name for step in range(20) for name in data.batch(step).ids}


@pytest.mark.parametrize("change", [{"width": 7}, {"encoder": "vit@2"}, {"unit": "mm"}])
def test_features_of_another_kind_than_most_are_named(change: dict[str, object]) -> None:
    _, reasons = refused(Store(changes={"s0": change}))
    assert set(reasons) == {"s0"}
    assert "most training slides have width 5, encoder vit@1, coordinates in um" in reasons["s0"]


def test_bags_of_unknown_label_are_named_in_every_split() -> None:
    labels = {"label": np.array([-1, -1, 0, 0, -1, -1] + [1] * 18), "time": np.array([1.0] * 22 + [np.nan] * 2)}
    data, reasons = refused(Store(), labels=labels)
    assert {name for name, reason in reasons.items() if reason == "unknown label"} == {"s0", "s1", "s4", "s5"}
    assert {name for name, reason in reasons.items() if reason == "unknown time"} == {"s22", "s23"}
    assert len(reasons) == 6
    assert data.ids("val") == ("p6", "p10")
    assert data.ids("test") == ("p3", "p7")


def test_one_known_finding_of_several_is_enough() -> None:
    none, some = np.full(24, -1), np.array([-1, -1] + [1] * 22)
    _, reasons = refused(Store(), labels={"label.a": none, "label.b": some})
    assert reasons == {"s0": "unknown label.*", "s1": "unknown label.*"}


def test_no_usable_training_bag_is_refused_with_the_commonest_reason() -> None:
    broken: dict[str, Exception] = {f"s{number}": UserError("no features") for number in range(24)}
    with pytest.raises(UserError, match="no training bag can be used: no features"):
        module(Store(broken=broken)).prepare(progress=False)


def test_slides_at_another_scale_than_most_training_slides_are_named_in_every_split() -> None:
    changes: dict[str, dict[str, object]] = {"s0": {"tile_size": 256.0}, "s6": {"tile_size": 64.0}}  # train, test
    scanners: dict[str, dict[str, object]] = {"s1": {"tile_size": 113.0}, "s7": {"tile_size": 135.0}}
    data, reasons = refused(Store(changes=changes | scanners))
    assert set(reasons) == {"s0", "s6"}
    assert "tiles of 256 um; most training slides have tiles of 128 um" in reasons["s0"]
    assert data.slides("p0") == (("s1", len(data.bag("p0"))),)
    assert data.tile_size == 128


def test_the_usual_size_is_near_to_most_and_never_between_two_scales() -> None:
    assert usual_size([64.0, 128.0, 130.0]) == 128
    assert usual_size([64.0, 66.0, 128.0, 130.0]) in (64, 66, 128, 130)
    assert same_scale(128, 113)
    assert not same_scale(64, 128)


def test_slides_of_one_bag_at_different_scales_do_not_go_together() -> None:
    bags = [Store(changes={"s0": {"tile_size": 256.0}})(name) for name in ("s0", "s1")]
    with pytest.raises(UserError, match="slides of 'p0' have tiles of 128 to 256 um"):
        joined("p0", bags)


# --------------------------------------------------------------------------------------------------------------------
# Batches


def test_any_cut_into_ranges_gives_the_same_batches() -> None:
    data = ready()
    whole = list(data.train_batches(0, 9))
    cut = [*data.train_batches(0, 2), *data.train_batches(2, 7), *data.train_batches(7, 9)]
    assert [batch.step for batch in whole] == list(range(9))
    assert all(same(one, other) for one, other in zip(whole, cut, strict=True))


def test_workers_change_nothing() -> None:
    alone, helped = ready(), ready(workers=2)
    pairs = zip(alone.train_batches(3, 7), helped.train_batches(3, 7), strict=True)
    assert all(same(one, other) for one, other in pairs)
    packs = zip(alone.eval_bags("val", 20), helped.eval_bags("val", 20), strict=True)
    assert all(one.ids == other.ids and torch.equal(one.features, other.features) for one, other in packs)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_together_hold_the_global_batch_with_its_labels(size: int) -> None:
    data = ready()
    for step in range(4):
        parts = [data.batch(step, rank, size) for rank in range(size)]
        names = [name for part in parts for name in part.ids]
        assert sorted(names) == sorted(data.ids("train")[bag] for bag in data.sampler.batch(step))
        for part in parts:
            assert part.labels["label"].tolist() == [int(name[1:]) % 2 for name in part.ids]


def test_a_batch_holds_whole_bags() -> None:
    data = ready()
    batch = data.batch(0)
    for name, start, stop in zip(batch.ids, batch.bags.offsets[:-1], batch.bags.offsets[1:], strict=True):
        assert np.array_equal(batch.bags.features[start:stop].numpy(), data.bag(name).features.astype(np.float32))


def test_evaluation_packs_keep_the_order_and_the_budget() -> None:
    data = ready()
    packs = list(data.eval_bags("train", tokens=40))
    assert tuple(name for pack in packs for name in pack.ids) == data.ids("train")
    assert len(packs) > 2
    assert all(len(pack.features) <= 40 or len(pack) == 1 for pack in packs)


@pytest.mark.parametrize("cache_gib", [0.0, 1.0])
def test_the_cache_changes_what_is_read_and_not_what_is_given(cache_gib: float) -> None:
    store = Store()
    data = ready(store, cache_gib=cache_gib)
    store.reads.clear()
    assert same(data.batch(0), ready().batch(0))
    assert bool(store.reads) == (cache_gib == 0)


@pytest.mark.parametrize("error", [OSError("gone"), UserError("damaged", "s9.h5")])
@pytest.mark.parametrize("workers", [0, 1])
def test_features_that_fail_later_stop_the_run_in_one_sentence(error: Exception, workers: int) -> None:
    store = Store()
    data = ready(store, cache_gib=0.0, workers=workers)
    store.broken |= {f"s{number}": error for number in range(24)}
    with pytest.raises(UserError, match=r"gone|damaged") as caught:
        list(data.train_batches(0, 1))
    assert "Traceback" not in str(caught.value)


def test_a_slide_that_was_embedded_again_meanwhile_is_refused() -> None:
    store = Store()
    data = ready(store, cache_gib=0.0)
    data._read = lambda name: Store()(f"s{int(name[1:]) + 100}")
    with pytest.raises(UserError, match="tiles when the run began"):
        data.bag("p0")


def test_the_fingerprint_is_of_the_training_bags_and_their_slides() -> None:
    fingerprint = ready().fingerprint
    assert ready().fingerprint == fingerprint
    assert ready(Store(broken={"s4": OSError("a validation slide")})).fingerprint == fingerprint
    assert ready(Store(broken={"s1": OSError("a training slide")})).fingerprint != fingerprint


def test_the_fingerprint_tells_other_labels_encoders_and_scales_of_the_same_slides() -> None:
    fingerprint = ready().fingerprint
    slides = [f"s{number}" for number in range(24)]
    for change in ({"encoder": "vit@2"}, {"tile_size": 256.0}, {"unit": "mm"}):
        assert ready(Store(changes=dict.fromkeys(slides, change))).fingerprint != fingerprint  # type: ignore[arg-type]
    for slide, other in ((0, True), (4, False)):  # of training, and of validation
        labels = np.array([number // 2 % 2 for number in range(24)])
        assert ready(labels={"label": labels}).fingerprint == fingerprint
        labels[[slide, slide + 1]] = 1 - labels[slide]
        assert (ready(labels={"label": labels}).fingerprint != fingerprint) == other
    assert ready(labels={}).fingerprint != fingerprint


def test_a_bag_beyond_the_cache_leaves_room_for_those_after_it() -> None:
    store = Store(changes={"s0": {"tiles": 2000}})
    data = ready(store, cache_gib=15_000 / 2**30)  # s0 has 20,000 bytes, all others have 6,900 at most
    store.reads.clear()
    for name in (*data.ids("train"), *data.ids("val"), *data.ids("test")):
        data.bag(name)
    assert store.reads == ["s0"]


def test_spawned_ranks_get_the_same_data() -> None:
    data = ready()
    assert same(pickle.loads(pickle.dumps(data)).batch(2), data.batch(2))


def test_drawn_tiles_come_from_training_bags_alone_and_equally_of_each() -> None:
    data = ready()
    tiles = data.tiles(36, seed=3)
    assert torch.equal(tiles, data.tiles(36, seed=3))
    assert not torch.equal(tiles, data.tiles(36, seed=4))
    known = {row.tobytes(): name for name in data.ids("train") for row in data.bag(name).features.astype(np.float32)}
    owners = [known[row.numpy().tobytes()] for row in tiles]
    assert max(owners.count(name) for name in data.ids("train")) <= 6  # 36 tiles, 6 patients
    assert len({row.numpy().tobytes() for row in tiles}) == len(tiles)


# --------------------------------------------------------------------------------------------------------------------
# Parts of a batch


@pytest.mark.parametrize("how", ["micro", "groups"])
def test_parts_of_a_batch_are_its_bags_in_order(how: str) -> None:
    batch = ready().batch(0)
    parts = batch.micro(2) if how == "micro" else batch.groups(30)
    assert len(parts) > 1
    assert tuple(name for part in parts for name in part.ids) == batch.ids
    assert torch.equal(torch.cat([part.bags.features for part in parts]), batch.bags.features)
    assert torch.equal(torch.cat([part.labels["label"] for part in parts]), batch.labels["label"])
    assert all(part.ids == part.bags.ids and part.step == batch.step for part in parts)


def test_a_batch_moves_with_its_labels() -> None:
    moved = ready().batch(0).to("meta")
    assert moved.images.device.type == moved.labels["label"].device.type == "meta"


def test_reading_ahead_keeps_the_order_and_reads_no_further_than_asked() -> None:
    read: list[int] = []

    def slow(item: int) -> int:
        time.sleep(0.01 if item % 2 else 0)
        read.append(item)
        return item

    ahead = read_ahead(slow, range(100), 3)
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    ahead.close()  # type: ignore[attr-defined]
    assert max(read) <= 8  # the fifth, and one for every thread
