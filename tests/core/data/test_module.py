"""Claims about loading: the same batches for any workers, ranks and restarts, and broken pictures cost themselves."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from core.data.augment import DRAWS, Augment
from core.data.manifest import Manifest
from core.data.module import PairsDataModule, _load
from core.data.samplers import UniformSampler, philox
from core.data.tiles import TileSource
from core.raster.reader import ReadError
from core.types import Batch, Geometry, Pixels, Targets, UserError, Window
from tests.core.data.cohort import PictureReader, make_module, write_cohort


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_cohort(tmp_path)


def ready(path: Path, workers: int = 0, cache_gib: float = 1.0, **options: object) -> PairsDataModule:
    module = make_module(path, workers, cache_gib, augment=Augment(), **options)
    module.prepare(progress=False)
    return module


def assert_same(a: Batch, b: Batch) -> None:
    assert (a.step, a.ids) == (b.step, b.ids)
    for name in ("images", "tokens", "owner", "labels"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert a.targets is not None
    assert b.targets is not None
    for field in fields(Targets):
        left, right = getattr(a.targets, field.name), getattr(b.targets, field.name)
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, field.name


def test_workers_and_cache_do_not_change_a_batch(manifest: Path) -> None:
    alone = list(ready(manifest).train_batches(0, 8))
    for workers, cache_gib in ((2, 1.0), (2, 0.0), (0, 6 * 192 / 2**30)):
        for a, b in zip(alone, ready(manifest, workers, cache_gib).train_batches(0, 8), strict=True):
            assert_same(a, b)


def test_starting_at_a_step_continues_as_if_never_stopped(manifest: Path) -> None:
    whole = list(ready(manifest).train_batches(0, 9))
    for start in (1, 4, 8):
        rest = ready(manifest, workers=2 if start == 4 else 0).train_batches(start, 9)
        assert len(rest) == 9 - start
        for a, b in zip(whole[start:], rest, strict=True):
            assert_same(a, b)


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_together_hold_the_batch_of_one_rank(manifest: Path, size: int) -> None:
    module = ready(manifest)
    parts = [list(module.train_batches(0, 5, rank, size)) for rank in range(size)]
    for step, whole in enumerate(module.train_batches(0, 5)):
        shares = [part[step] for part in parts]
        assert torch.equal(torch.cat([share.images for share in shares]), whole.images)
        assert torch.equal(torch.cat([share.tokens for share in shares]), whole.tokens)
        assert torch.equal(torch.cat([share.labels for share in shares]), whole.labels)
        offsets = np.cumsum([0, *(len(share.ids) for share in shares)])
        owners = [share.owner + int(offset) for share, offset in zip(shares, offsets, strict=False)]
        assert torch.equal(torch.cat(owners), whole.owner)
        for share in shares:
            assert share.targets is not None
            assert share.targets.row_splits == tuple(offsets.tolist())
            assert torch.equal(share.targets.column_owner, whole.targets.column_owner)


def test_a_batch_holds_training_pictures_with_their_own_captions_and_classes(manifest: Path) -> None:
    module = ready(manifest)
    frame = module.manifest.frame.set_index("id")
    for batch in module.train_batches(0, 6):
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape[1:] == (3, 8, 8)
        assert len(batch.tokens) == 2 * len(batch.ids)
        for caption, owner in zip(batch.tokens, batch.owner, strict=True):
            row = frame.loc[batch.ids[owner]]
            assert row["split"] == "train"
            assert bytes(caption[caption > 0].tolist()).decode() in row["captions"]
            assert module.classes[batch.labels[owner]] == row["label"]


def test_pictures_to_evaluate_come_in_file_order_without_augmentation(manifest: Path) -> None:
    module = ready(manifest)
    rows, images = zip(*module.eval_images("test", 3), strict=True)
    assert np.concatenate(rows).tolist() == [20, 21, 22, 23]
    for row, image in zip(np.concatenate(rows), torch.cat(images), strict=True):
        np.testing.assert_array_equal(image, module.tiles.get(int(row)))
    again = list(ready(manifest, workers=2, cache_gib=0.0).eval_images("test", 3))
    assert torch.equal(torch.cat([part for _, part in again]), torch.cat(images))


def test_a_broken_picture_is_named_and_leaves_every_rank_alike(manifest: Path) -> None:
    frame = Manifest.read(manifest).frame
    (manifest.parent / frame["path"][3]).write_bytes(b"no picture at all")
    whole = (manifest.parent / frame["path"][4]).read_bytes()
    (manifest.parent / frame["path"][4]).write_bytes(whole[: len(whole) // 2])
    module = make_module(manifest)
    bad = {fate.path: fate for fate in module.prepare(progress=False) if fate.status != "ok"}
    assert set(bad) == {frame["path"][3], frame["path"][4]}
    assert "is no picture" in bad[frame["path"][3]].reason
    assert "cannot be decoded" in bad[frame["path"][4]].reason
    assert not {3, 4} & set(module.rows("train").tolist())
    ids = {name for rank in range(2) for batch in module.train_batches(0, 12, rank, 2) for name in batch.ids}
    assert len(ids) == 14
    assert not {"p3", "p4"} & ids


def test_all_pictures_broken_is_one_error_with_the_reason(manifest: Path) -> None:
    for path in manifest.parent.glob("*.png"):
        path.write_bytes(b"x")
    with pytest.raises(UserError, match=r"no training picture can be read: is no picture"):
        make_module(manifest).prepare(progress=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_lost_during_training_is_replaced_by_one_of_its_group_and_counted(
    manifest: Path, workers: int
) -> None:
    module = ready(manifest, workers, cache_gib=0.0)
    before = list(module.train_batches(0, 6))
    lost = module.tiles.files[0]
    assert lost is not None
    Path(lost).unlink()
    after = list(module.train_batches(0, 6))
    assert any("p0" in batch.ids for batch in before)
    for a, b in zip(before, after, strict=True):
        assert a.ids == b.ids
        same = [torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True)]
        assert same == [name != "p0" for name in a.ids]
    alike = [row for row in module.rows("train") if module.manifest.frame["label"][row] == "disc" and row != 0]
    replaced = [(b, b.ids.index("p0")) for b in after if "p0" in b.ids]
    for batch, place in replaced:
        draws = philox(5, 4, batch.step).random((len(batch.ids), DRAWS))[place : place + 1]
        others = [Augment()(module.tiles.get(int(row))[None], draws)[0] for row in alike]
        assert any(np.array_equal(batch.images[place].numpy(), other) for other in others)
    fate = next(fate for fate in module.tiles.fates() if Path(lost).name == fate.path)
    assert fate.status == "partial"
    assert fate.counts["late_failures"] == len(replaced)


def test_a_picture_lost_without_a_like_stops_with_one_sentence_even_from_a_worker(manifest: Path) -> None:
    module = ready(manifest, 2, cache_gib=0.0, relations=None)
    for row in module.rows("train"):
        Path(str(module.tiles.files[row])).unlink()
    with pytest.raises(UserError, match="was readable before training") as caught:
        list(module.train_batches(0, 2))
    assert "Traceback" not in str(caught.value)


def test_a_cache_is_bounded_and_shows_the_same_pixels(manifest: Path) -> None:
    small, whole = ready(manifest, cache_gib=5 * 192 / 2**30), ready(manifest)
    assert (small.tiles.cached, whole.tiles.cached) == (5, 24)
    for row in range(24):
        np.testing.assert_array_equal(small.tiles.get(row), whole.tiles.get(row))


def test_cached_pictures_are_not_read_again(manifest: Path) -> None:
    module = ready(manifest)
    for path in manifest.parent.glob("*.png"):
        path.unlink()
    assert len(list(module.train_batches(0, 12))) == 12


def test_tiles_can_be_read_by_a_spawned_process(manifest: Path) -> None:
    tiles = ready(manifest, cache_gib=0.0).tiles
    tiles.get(0)  # so that a handle is open when the source is sent
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(tiles.get, 0).result(), tiles.get(0))


class Torn(PictureReader):
    """Fails on the window at x = 8."""

    def open(self, path: str | Path, resolution: float | None = None):  # type: ignore[no-untyped-def]
        raster = super().open(path, resolution)
        read = raster.read

        def torn(window: Window, out_size: tuple[int, int], *how: Any) -> Pixels:
            if window.x == 8:
                raise ReadError("the tile is torn", str(path))
            return read(window, out_size, *how)

        raster.read = torn  # type: ignore[method-assign]
        return raster


def windows(folder: Path, **columns: object) -> Manifest:
    write_cohort(folder, 2)
    name = pd.read_csv(folder / "manifest.csv")["path"][0]
    rows = [{"path": name, "x": x, "y": y, "w": 8, "h": 8, "split": "train", **columns} for x in (0, 8) for y in (0, 8)]
    pd.DataFrame(rows).to_csv(folder / "windows.csv", index=False)
    return Manifest.read(folder / "windows.csv")


def test_a_torn_tile_costs_that_tile_of_its_slide(tmp_path: Path) -> None:
    manifest = windows(tmp_path, mpp=0.5)
    tiles = TileSource(manifest, Torn(), Geometry(8, 0.5))
    assert tiles.decode_all(np.arange(4), progress=False).tolist() == [0, 1]
    fate = tiles.fates()[0]
    assert (fate.status, fate.counts["tiles"], fate.counts["failed_tiles"]) == ("partial", 4, 2)
    assert fate.reason == "the tile is torn"


def test_a_resolution_of_the_row_wins_over_the_configs_and_sets_the_field_of_view(tmp_path: Path) -> None:
    manifest = windows(tmp_path, mpp=0.5)
    fine = TileSource(manifest, PictureReader(), Geometry(8, 0.5), resolution=9.0)
    whole = np.asarray(PictureReader().open(manifest.file(0)).read(Window(0, 0, 8, 8), (8, 8)).values)
    np.testing.assert_array_equal(fine.get(0), whole.transpose(2, 0, 1))


def test_data_of_another_geometry_are_refused_unless_overridden(tmp_path: Path) -> None:
    scaled, bare = windows(tmp_path, mpp=0.5), windows(tmp_path)
    with pytest.raises(UserError, match=r"windows of slides.*rows 2, 3, 4, 5"):
        TileSource(bare, PictureReader(), Geometry(8, None))
    with pytest.raises(UserError, match="in um, the model's in m"):
        TileSource(scaled, PictureReader(), Geometry(8, 0.5, "m"))
    unknown = TileSource(bare, PictureReader(), Geometry(8, 0.5))
    assert len(unknown.decode_all(np.arange(4), progress=False)) == 0
    assert "the scale is not known" in unknown.fates()[0].reason
    overridden = TileSource(bare, PictureReader(), Geometry(8, 0.5), override=True)
    assert len(overridden.decode_all(np.arange(4), progress=False)) == 4


def test_the_fingerprint_tells_other_training_data(manifest: Path) -> None:
    first = ready(manifest).fingerprint
    assert ready(manifest, 2).fingerprint == first
    frame = pd.read_csv(manifest)
    frame.drop(index=0).to_csv(manifest, index=False)
    assert ready(manifest).fingerprint != first


def test_uniform_batches_load_too(manifest: Path) -> None:
    module = ready(manifest)
    module = PairsDataModule(module.manifest, module.tiles, lambda groups: UniformSampler(groups, 5, 0), seed=0)
    module.prepare(progress=False)
    batch = next(iter(module.train_batches(3, 4)))
    assert (batch.step, len(batch.ids), batch.targets, len(batch.tokens)) == (3, 5, None, 0)


class Handlers(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __getitem__(self, _: int) -> list[bool]:
        return [signal.getsignal(s) == signal.SIG_IGN for s in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)]


def test_workers_leave_signals_to_the_main_process() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        assert list(_load(Handlers(), range(1), 1)) == [[True, True, True]]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_using_data_before_they_are_prepared_is_an_error(manifest: Path) -> None:
    with pytest.raises(RuntimeError, match="prepare"):
        make_module(manifest).train_batches(0, 1)


def test_a_copied_cohort_gives_the_same_batches_elsewhere(
    manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(manifest.parent, elsewhere)
    for a, b in zip(
        ready(manifest).train_batches(0, 3), ready(elsewhere / manifest.name).train_batches(0, 3), strict=True
    ):
        assert_same(a, b)
