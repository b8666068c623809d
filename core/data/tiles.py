"""Decoded tiles: every picture of a manifest cut at the model's geometry, each decoded once.

All tiles are decoded once before training. That finds the broken ones, which are named and leave the training data on
every rank alike, and fills the cache; tiles that do not fit into it are decoded again when they are needed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from core.data.manifest import Manifest
from core.data.table import row_names
from core.raster.patch import cut
from core.raster.reader import Raster, Reader
from core.types import Fate, Geometry, UserError, Window

READY, BROKEN = 1, 2
HANDLES = 8  # open rasters a process keeps: slides hold decoders and file handles


class TileSource:
    """Tiles of manifest rows as uint8 [3, s, s].

    The cache is one tensor in shared memory, so workers of any start method read it without a copy. Handles of rasters
    belong to one process and are opened again in another.

    Args:
        manifest: rows to cut; those without a picture are never asked for.
        reader: of the domain.
        geometry: of the model.
        resolution: size of a level-0 pixel of pictures whose row does not say, or None.
        override: cut pictures whose scale does not fit the model all the same: whole pictures (or windows) are scaled.
        cache_gib: bound of the cache.

    Raises:
        UserError: the model takes whole pictures of unknown scale and the manifest holds windows of slides, or the
            units of the model and of the manifest differ; neither with ``override``.
    """

    def __init__(
        self,
        manifest: Manifest,
        reader: Reader,
        geometry: Geometry,
        *,
        resolution: float | None = None,
        override: bool = False,
        cache_gib: float = 1.0,
    ) -> None:
        frame = manifest.frame
        if not override:
            _refuse_mismatch(manifest, geometry)
        self.geometry = replace(geometry, resolution=None) if override else geometry
        self._names = frame["path"].tolist()
        self.files = [None if path is None else str(manifest.root / path) for path in frame["path"]]
        self._windows = frame[["x", "y", "w", "h"]].to_numpy(np.float64)
        given = frame["resolution"].to_numpy(np.float64)
        self._resolutions = np.where(np.isnan(given), np.nan if resolution is None else resolution, given)
        self._reader, self._override, self._cache_gib = reader, override, cache_gib
        self._slot = np.full(len(frame), -1, np.int64)
        self._cache = torch.empty((0, 3, geometry.size_px, geometry.size_px), dtype=torch.uint8)
        # late[row] counts reads that failed after the tile had been found sound; shared, because workers count too
        self.late = torch.zeros(len(frame), dtype=torch.int32).share_memory_()  # type: ignore[no-untyped-call]
        self.state = np.zeros(len(frame), np.uint8)
        self._reasons: dict[int, str] = {}
        self._handles: OrderedDict[tuple[str, float | None], Raster] = OrderedDict()
        self._process = os.getpid()

    @property
    def cached(self) -> int:
        """Number of tiles the cache holds."""
        return len(self._cache)

    def decode_all(self, rows: np.ndarray, workers: int = 0, progress: bool = True) -> np.ndarray:
        """Decodes the tiles of some rows once, those first in ``rows`` into the cache.

        Args:
            rows: manifest rows, in the order in which the cache is filled.
            workers: whether loaders will use worker processes (above 0: the cache must fit into shared memory).
            progress: shows a bar.

        Returns:
            The rows that can be read, in the same order.
        """
        rows = np.asarray(rows, np.int64)
        self._allocate(rows, workers)
        by_file: dict[str, list[int]] = {}
        for row in rows:
            by_file.setdefault(str(self.files[row]), []).append(int(row))
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with ThreadPoolExecutor(threads) as pool:
            done = pool.map(self._decode_file, by_file.values())
            for _ in track(done, "decoding pictures", total=len(by_file), disable=not progress, transient=True):
                pass
        readable: np.ndarray = rows[self.state[rows] == READY]
        return readable

    def get(self, row: int) -> np.ndarray:
        """One tile, uint8 [3, s, s]; a view of the cache where it is there: not to be written to.

        Raises:
            UserError: it cannot be read.
        """
        slot = self._slot[row]
        if slot >= 0 and self.state[row] == READY:
            cached: np.ndarray = self._cache[slot].numpy()
            return cached
        raster = self._handle(row)
        try:
            return self._cut(raster, row)
        except (UserError, OSError):
            self._handles.pop(self._key(row), None)
            raise

    def fates(self) -> list[Fate]:
        """What became of each file that was decoded, named as in the manifest, in its order."""
        rows_of: dict[str, list[int]] = {}
        for row in np.flatnonzero(self.state | (self.late.numpy() > 0)):
            rows_of.setdefault(str(self._names[row]), []).append(int(row))
        return [self._fate(path, rows) for path, rows in rows_of.items()]

    def _fate(self, path: str, rows: list[int]) -> Fate:
        failed = [row for row in rows if self.state[row] == BROKEN]
        late = int(self.late[rows].sum())
        counts = {"tiles": len(rows), "failed_tiles": len(failed), "late_failures": late}
        if not failed and not late:
            return Fate(path, "ok", counts=counts)
        reason = self._reasons[failed[0]] if failed else "was readable before training and failed during it"
        return Fate(path, "refused" if len(failed) == len(rows) else "partial", reason, counts)

    def _allocate(self, rows: np.ndarray, workers: int) -> None:
        size = self.geometry.size_px
        room = int(self._cache_gib * 2**30)
        shared = Path("/dev/shm")
        if workers and shared.is_dir():  # containers often have 64 MiB; writing beyond it kills the process
            room = min(room, int(shutil.disk_usage(shared).free * 0.8))
        count = min(len(rows), room // (3 * size * size))
        self._cache = torch.empty((count, 3, size, size), dtype=torch.uint8)
        if workers:
            self._cache.share_memory_()  # type: ignore[no-untyped-call]
        self._slot[:] = -1
        self._slot[rows[:count]] = np.arange(count)

    def _decode_file(self, rows: list[int]) -> None:
        """Decodes all tiles of a file in the calling thread; threads share no raster."""
        opened: dict[float | None, Raster] = {}
        with contextlib.ExitStack() as stack:
            for row in rows:
                key = self._resolution(row)
                try:
                    if key not in opened:
                        opened[key] = stack.enter_context(self._open(row))
                    pixels = self._cut(opened[key], row)
                except (UserError, OSError) as error:
                    self.state[row] = BROKEN
                    self._reasons[row] = _reason(error)
                    continue
                if self._slot[row] >= 0:
                    self._cache[self._slot[row]] = torch.from_numpy(pixels)
                self.state[row] = READY

    def _open(self, row: int) -> Raster:
        return self._reader.open(Path(str(self.files[row])), self._resolution(row))

    def _resolution(self, row: int) -> float | None:
        """What the manifest or the config says; None rather than NaN, which no dictionary finds again."""
        value = float(self._resolutions[row])
        return None if np.isnan(value) else value

    def _key(self, row: int) -> tuple[str, float | None]:
        return str(self.files[row]), self._resolution(row)

    def _handle(self, row: int) -> Raster:
        if self._process != os.getpid():  # a forked worker must not use its parent's file handles
            self._process, self._handles = os.getpid(), OrderedDict()
        key = self._key(row)
        raster = self._handles.pop(key, None) or self._open(row)
        self._handles[key] = raster
        if len(self._handles) > HANDLES:
            self._handles.popitem(last=False)[1].close()
        return raster

    def _cut(self, raster: Raster, row: int) -> np.ndarray:
        x, y, w, h = self._windows[row]
        where = None if np.isnan(x) else Window(x, y, w, h)
        if self.geometry.resolution is None and where is None and len(raster.levels) > 1 and not self._override:
            raise UserError(
                f"'{raster.path}' is a slide, and the model takes whole pictures of unknown scale",
                todo="choose a model with a resolution, or set geometry=override",
            )
        pixels: np.ndarray = cut(raster, where, self.geometry).pixels
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_handles": OrderedDict()}


def _reason(error: UserError | OSError) -> str:
    """One line without the path, which stands beside it."""
    if isinstance(error, UserError):
        return "; ".join(part for part in (error.what, error.todo) if part)
    return str(error)


def _refuse_mismatch(manifest: Manifest, geometry: Geometry) -> None:
    todo = "choose a model whose geometry fits, or set geometry=override to scale the pictures all the same"
    if geometry.resolution is None and manifest.frame["x"].notna().any():
        rows = manifest.frame["row"].to_numpy()[manifest.frame["x"].notna().to_numpy()]
        raise UserError(
            "the manifest holds windows of slides, and the model takes whole pictures of unknown scale",
            f"{manifest.path}, {row_names(manifest.path, rows)}",
            todo,
        )
    if geometry.resolution is not None and manifest.unit not in (None, geometry.unit):
        raise UserError(
            f"the manifest's resolution is in {manifest.unit}, the model's in {geometry.unit}", str(manifest.path), todo
        )


def chunks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Consecutive parts of at most ``size``."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
