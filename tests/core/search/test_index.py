"""Claims about the index: it follows its features, is always whole, and is of one tower."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from core.search import index as indexing
from core.search import shards
from core.search.index import annotate, estimate, feature_files, open_index, plan, update
from core.search.query import hits, nearest
from core.search.shards import unit
from core.types import UserError
from tests.core.search.files import corners, write

WIDTH = 16


def vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, WIDTH))


def truth(cohort: dict[str, np.ndarray], query: np.ndarray, count: int) -> list[tuple[str, int, int]]:
    """(slide, x, y) of the nearest tiles by brute force."""
    rows = [(f"{name}.svs", *place) for name, part in cohort.items() for place in corners(len(part)).tolist()]
    kept = unit(np.concatenate(list(cohort.values())).astype(np.float16)).astype(np.float16)  # in half precision
    cosines = kept.astype(np.float32) @ query
    return [rows[i] for i in np.argsort(-cosines, kind="stable")[:count]]


def answer(folder: Path, query: np.ndarray, count: int) -> list[tuple[str, int, int]]:
    table = hits(open_index(folder), query, count)
    return list(zip(table["slide"], table["x"], table["y"], strict=True))


QUERY = unit(vectors(1, 99))[0]


def test_an_update_adds_replaces_and_drops_files_and_finds_what_brute_force_finds(tmp_path: Path) -> None:
    index = tmp_path / "index"
    cohort = {name: vectors(40 + seed, seed) for seed, name in enumerate(("a", "b", "c", "deep/d"))}
    for name, part in cohort.items():
        write(tmp_path / "features", name, part)
    built, changes = update(index, tmp_path / "features")
    assert len(changes.added) == 4
    assert [(fate.path, fate.status, fate.counts["tiles"]) for fate in built.fates()] == [
        ("a.h5", "ok", 40), ("b.h5", "ok", 41), ("c.h5", "ok", 42), ("deep/d.h5", "ok", 43),
    ]  # fmt: skip
    assert answer(index, QUERY, 20) == truth(cohort, QUERY, 20)
    before = {path.name: path.stat().st_mtime_ns for path in index.iterdir()}
    _, changes = update(index, tmp_path / "features")
    assert changes.kept == 4
    assert {path.name: path.stat().st_mtime_ns for path in index.iterdir()} == before  # nothing was written
    del cohort["a"]
    (tmp_path / "features" / "a.h5").unlink()
    cohort |= {"b": vectors(30, 7), "e": vectors(50, 8)}
    for name in ("b", "e"):
        write(tmp_path / "features", name, cohort[name])
    _, changes = update(index, tmp_path / "features")
    assert (changes.added, changes.changed, changes.removed, changes.kept) == (("e.h5",), ("b.h5",), ("a.h5",), 2)
    assert answer(index, QUERY, 30) == truth(cohort, QUERY, 30)


def test_a_slide_that_is_gone_is_no_longer_found_and_its_shard_is_left_until_half_of_it_is_gone(tmp_path: Path) -> None:
    index = tmp_path / "index"
    cohort = {name: vectors(40, seed) for seed, name in enumerate("abc")}
    for name, part in cohort.items():
        write(tmp_path / "features", name, part)
    update(index, tmp_path / "features")
    for gone, kept in (("a", True), ("b", False)):
        before = set(index.glob("*.npy"))
        del cohort[gone]
        (tmp_path / "features" / f"{gone}.h5").unlink()
        update(index, tmp_path / "features")
        assert answer(index, QUERY, 200) == truth(cohort, QUERY, 200)
        assert (set(index.glob("*.npy")) == before) is kept


def test_tiles_are_found_in_every_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "SHARD_TILES", 60)
    cohort = {f"s{seed}": vectors(25, seed) for seed in range(7)}
    for name, part in cohort.items():
        write(tmp_path / "features", name, part)
    index, _ = update(tmp_path / "index", tmp_path / "features")
    assert len(index.shards) == 3
    assert answer(index.folder, QUERY, 50) == truth(cohort, QUERY, 50)
    write(tmp_path / "features", "t", vectors(5, 20))  # the last, small shard is filled up; full ones are left alone
    more, _ = update(tmp_path / "index", tmp_path / "features")
    assert len(more.shards) == 3
    assert len(set(more.shards) & set(index.shards)) == 2


def test_bad_files_and_those_of_another_tower_are_refused_by_name_and_the_others_are_found(tmp_path: Path) -> None:
    features = tmp_path / "features"
    cohort = {"a": vectors(30, 0), "c": vectors(30, 2)}
    for name, part in cohort.items():
        write(features, name, part)
    write(features, "aa", vectors(20, 1), encoder="other/projected@123456")
    write(features, "wide", np.zeros((5, WIDTH + 1)))
    write(features, "empty", np.zeros((0, WIDTH)), note="no tissue")
    with h5py.File(write(features, "nan", vectors(5, 3)), "r+") as file:
        file["features"][2, 3] = np.nan
    (features / "cut.h5").write_bytes((features / "a.h5").read_bytes()[:500])
    index, _ = update(tmp_path / "index", features)
    refused = {fate.path: fate.reason for fate in index.fates() if fate.status == "refused"}
    assert set(refused) == {"aa.h5", "wide.h5", "empty.h5", "nan.h5", "cut.h5"}
    assert "other/projected@123456" in refused["aa.h5"]
    assert "small/projected@0a1b2c" in refused["aa.h5"]
    assert "17" in refused["wide.h5"]
    assert "no tissue" in refused["empty.h5"]
    assert "NaN" in refused["nan.h5"]
    again, changes = update(tmp_path / "index", features)  # nothing is tried again until it changes
    assert (changes.added, changes.changed, changes.kept) == ((), (), 2)
    assert again.fates() == index.fates()
    assert set(again.shards) == set(index.shards)
    cohort["nan"] = vectors(5, 3)
    write(features, "nan", cohort["nan"])
    again, changes = update(tmp_path / "index", features)
    assert changes.changed == ("nan.h5",)
    assert set(again.refused) == set(refused) - {"nan.h5"}
    assert answer(index.folder, QUERY, 60) == truth(cohort, QUERY, 60)


def test_features_made_anew_by_another_tower_make_the_index_anew(tmp_path: Path) -> None:
    for seed in range(2):
        write(tmp_path / "features", f"s{seed}", vectors(10, seed))
    update(tmp_path / "index", tmp_path / "features")
    for seed in range(2):
        write(tmp_path / "features", f"s{seed}", vectors(11, seed), encoder="other/projected@123456")
    index, _ = update(tmp_path / "index", tmp_path / "features")
    assert index.tower is not None
    assert index.tower.encoder == "other/projected@123456"
    assert {fate.status for fate in index.fates()} == {"ok"}
    assert len(index) == 22


def test_an_interrupted_update_leaves_an_index_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "SHARD_TILES", 20)
    index, features = tmp_path / "index", tmp_path / "features"
    cohort = {name: vectors(25, seed) for seed, name in enumerate("abc")}
    for name, part in cohort.items():
        write(features, name, part)
    update(index, features)
    old = answer(index, QUERY, 100)
    fresh = {"b": vectors(25, 11), "d": vectors(25, 12)}
    for name, part in fresh.items():
        write(features, name, part)
    replace, left = os.replace, [0]

    def stop(*arguments: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        replace(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", stop)
    seen = set()
    for left[0] in range(1, 8):  # at every file that is put in its place
        try:
            update(index, features)
        except KeyboardInterrupt:
            now = answer(index, QUERY, 100)
            seen.add([old, truth(cohort | {"b": fresh["b"]}, QUERY, 100)].index(now))
        else:
            break
    monkeypatch.setattr(os, "replace", replace)
    assert seen == {0, 1}
    update(index, features)
    assert answer(index, QUERY, 200) == truth(cohort | fresh, QUERY, 200)
    assert len(list(index.glob("*.npy"))) == len(open_index(index).shards)  # nothing is left over


UPDATE = """
import sys
from core.search import index
index.SHARD_TILES = 100
index.update(sys.argv[1], sys.argv[2])
"""


def test_a_killed_update_is_gone_on_with_and_gives_the_same_index(tmp_path: Path) -> None:
    index, features = tmp_path / "index", tmp_path / "features"
    cohort = {f"s{seed:03}": vectors(100, seed) for seed in range(80)}
    for name, part in cohort.items():
        write(features, name, part)
    process = subprocess.Popen([sys.executable, "-c", UPDATE, str(index), str(features)], stderr=subprocess.PIPE)
    while process.poll() is None and len(list(index.glob("*.npy"))) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read() if process.stderr else ""
    begun = open_index(index)
    assert 0 < len(begun.slides) < 80
    found = set(begun.slides["slide"].str.removesuffix(".svs"))
    assert answer(index, QUERY, 20) == truth({name: cohort[name] for name in sorted(found)}, QUERY, 20)
    _, changes = update(index, features)
    assert 0 < changes.kept < 80
    assert answer(index, QUERY, 50) == truth(cohort, QUERY, 50)


def test_what_a_manifest_said_stays_until_another_says_otherwise(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write(tmp_path / "features", name, vectors(10, seed))
    index, _ = update(tmp_path / "index", tmp_path / "features")
    said = pd.DataFrame({"site": ["X", "Y"]}, index=["a.svs", "b.svs"])
    annotate(index, {"a.svs": "/slides/a.svs"}, said)
    write(tmp_path / "features", "b", vectors(12, 5))
    write(tmp_path / "features", "c", vectors(12, 6))
    index, _ = update(tmp_path / "index", tmp_path / "features")
    slides = index.slides.set_index("slide")
    assert slides["manifest.site"].fillna("").to_dict() == {"a.svs": "X", "b.svs": "Y", "c.svs": ""}
    assert slides["path"].fillna("").to_dict() == {"a.svs": "/slides/a.svs", "b.svs": "", "c.svs": ""}
    index = annotate(index, {}, pd.DataFrame({"stage": [1.0, 2.0]}, index=["a.svs", "c.svs"]))
    assert index.columns == ["manifest.stage"]
    assert index.slides.set_index("slide")["path"].fillna("").to_dict()["a.svs"] == "/slides/a.svs"


def test_what_is_no_index_of_this_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "features", "a", vectors(5, 0))
    index, _ = update(tmp_path / "index", tmp_path / "features")
    table = parquet.read_table(index.folder / "slides.parquet")
    newer = {**table.schema.metadata, b"schema_version": b"99"}
    parquet.write_table(table.replace_schema_metadata(newer), index.folder / "slides.parquet")
    with pytest.raises(UserError, match="99, newer"):
        open_index(index.folder)
    parquet.write_table(table.replace_schema_metadata({}), index.folder / "slides.parquet")
    with pytest.raises(UserError, match="no index"):
        open_index(index.folder)
    (index.folder / "slides.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="damaged"):
        open_index(index.folder)
    with pytest.raises(UserError, match="no feature file"):
        update(tmp_path / "other", tmp_path / "index")
    assert not (tmp_path / "other").exists()


def test_a_missing_shard_is_told_in_words(tmp_path: Path) -> None:
    write(tmp_path / "features", "a", vectors(5, 0))
    index, _ = update(tmp_path / "index", tmp_path / "features")
    next(index.folder.glob("*.npy")).unlink()
    with pytest.raises(UserError, match="made anew"):
        nearest(open_index(index.folder), QUERY[None], 3)


def test_an_estimate_is_of_the_size_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "CODED_TILES", 100)
    for seed in range(3):
        write(tmp_path / "features", f"s{seed}", vectors(400, seed))
    changes = plan(open_index(tmp_path / "index"), feature_files(tmp_path / "features"))
    tiles, gigabytes, hours, fates = estimate(tmp_path / "features", changes.added)
    assert (tiles, fates) == (1200, [])
    assert not (tmp_path / "index").exists()
    assert 0 < hours < 0.1
    update(tmp_path / "index", tmp_path / "features")
    written = sum(path.stat().st_size for path in (tmp_path / "index").iterdir()) / 1e9
    assert 0.5 < written / gigabytes < 2
