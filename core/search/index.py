"""A vector index over the feature files of a cohort: a folder that is always whole, and follows its features.

``slides.parquet`` *is* the index: a row a slide says in which shard its tiles are, beside columns of the manifest;
what it does not name is not part of the index. (Files that were refused are in its metadata, so that they are tried
again only when they change.) An update writes shards beside the old ones and then replaces this one file, so a kill
leaves the index as it was, or with the slides of the shards that were done.

===========================  =====================================================================================
``slides.parquet``           file, slide, shard, first, tiles, width, height, bytes, mtime_ns, path, sharing,
                             ``manifest.*``
``<name>.{npy,faiss}``       vectors and codes of a shard (:mod:`core.search.shards`)
``<name>.parquet``           x, y of its tiles: top left corners in level-0 pixels, by row
===========================  =====================================================================================
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.files import atomic_write
from core.search.shards import CODES, SHARD_TILES, VECTORS, Shard, write_shard
from core.types import Fate, UserError

if TYPE_CHECKING:
    import pandas as pd

    from core.mil.features import Header

SCHEMA_VERSION = 2  # 1 had no sharing
SLIDES = "slides.parquet"
FOLDER = "search_index"  # of the index of a folder of features, in that folder
TIMED_TILES = 20_000  # of a dry run
PREFIX = "manifest."  # of columns that come from the manifest
COLUMNS = {
    "file": "str", "slide": "str", "shard": "str", "first": "int64", "tiles": "int64", "width": "float64",
    "height": "float64", "bytes": "int64", "mtime_ns": "int64", "path": "object", "sharing": "str",
}  # fmt: skip


@dataclass(frozen=True)
class Tower:
    """Which tower made the vectors of an index."""

    encoder: str  # name@hash
    weights_sha256: str  # of its weights file
    space: str  # "projected" (shared with texts) or "pooled"


@dataclass(frozen=True, eq=False)
class Index:
    """An index as it was when it was opened."""

    folder: Path
    tower: Tower | None  # None: no slide yet
    slides: pd.DataFrame  # a row a slide, see the module
    refused: Mapping[str, tuple[int, int, str]] = field(default_factory=dict)  # size, time and reason by file

    def __len__(self) -> int:
        return int(self.slides["tiles"].sum())

    @cached_property
    def shards(self) -> dict[str, Shard]:
        """By name, in the order of :attr:`slides`."""
        return {name: Shard(self.folder / name) for name in self.slides["shard"].unique()}

    def fates(self) -> list[Fate]:
        """What became of every feature file."""
        files, tiles = self.slides["file"], self.slides["tiles"]
        good = [Fate(str(file), "ok", "", {"tiles": int(count)}) for file, count in zip(files, tiles, strict=True)]
        bad = [Fate(file, "refused", reason) for file, (_, _, reason) in self.refused.items()]
        return sorted([*good, *bad], key=lambda fate: fate.path)

    @property
    def columns(self) -> list[str]:
        """What the manifest said of slides: names of columns of :attr:`slides`, with their prefix."""
        return [str(name) for name in self.slides.columns if str(name).startswith(PREFIX)]

    def corners(self, shard: str) -> np.ndarray:
        """Top left corners of a shard's tiles, int64 [rows, 2] in level-0 pixels."""
        from pyarrow import parquet

        table = parquet.read_table(self.folder / f"{shard}.parquet")
        return np.stack([table["x"].to_numpy(), table["y"].to_numpy()], 1)


@dataclass(frozen=True)
class Changes:
    """What an update has to do, or did."""

    added: tuple[str, ...]  # files
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    kept: int  # slides that stay as they are


def is_index(folder: str | Path) -> bool:
    """Whether a folder is an index."""
    return (Path(folder) / SLIDES).is_file()


def open_index(folder: str | Path) -> Index:
    """Opens an index; an empty folder is an index without slides.

    Raises:
        UserError: it is damaged, or was written by a newer version.
    """
    import pyarrow as pa
    from pyarrow import parquet

    folder = Path(folder)
    path = folder / SLIDES
    if not path.is_file():
        return Index(folder, None, _empty())
    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"'{path}' is damaged: {error}", todo="remove the index: it is made anew") from error
    said = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    if "encoder" not in said:
        raise UserError(f"'{path}' is no index of this suite", todo="give a folder of feature files, or an index")
    if int(said["schema_version"]) > SCHEMA_VERSION:
        raise UserError(f"the index '{folder}' has schema version {said['schema_version']}, newer than "
                        f"{SCHEMA_VERSION}", todo="update trivium")  # fmt: skip
    refused = {file: (size, time_ns, reason) for file, size, time_ns, reason in json.loads(said["refused"])}
    slides = table.to_pandas()
    if "sharing" not in slides:  # features of that time did not say it
        slides["sharing"] = "open"
    return Index(folder, Tower(said["encoder"], said["weights_sha256"], said["space"]), slides, refused)


def feature_files(features: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every feature file below a folder, by its relative name, sorted.

    Raises:
        UserError: there is none.
    """
    from core.mil.features import SUFFIX

    paths = [path for path in sorted(features.rglob(f"*{SUFFIX}")) if not path.name.startswith(".")]  # being written
    if not paths:
        raise UserError(f"there is no feature file below '{features}'", todo="make them with the verb embed")
    return {path.relative_to(features).as_posix(): _state(path) for path in paths}


def plan(index: Index, there: Mapping[str, tuple[int, int]]) -> Changes:
    """Which feature files are new, changed or gone; a changed one has another size or time."""
    slides = index.slides
    states = zip(slides["bytes"], slides["mtime_ns"], strict=True)
    known = {**dict(zip(slides["file"], states, strict=True)),
             **{file: state[:2] for file, state in index.refused.items()}}  # fmt: skip
    added = tuple(name for name in there if name not in known)
    changed = tuple(name for name in there if name in known and known[name] != there[name])
    removed = tuple(name for name in known if name not in there)
    gone = {*changed, *removed}
    return Changes(added, changed, removed, sum(name not in gone for name in slides["file"]))


def update(folder: str | Path, features: str | Path, seed: int = 0) -> tuple[Index, Changes]:
    """Brings an index up to its features: adds new and changed files, drops those that are gone.

    An index is of one tower: that of most tiles when it is made (or when nothing of the old index is left). A file of
    another tower is refused by name. Shards of which less than half is still in use, and small ones when there is
    something to add, are made anew. One process updates at a time, others wait.

    Args:
        folder: of the index; made when it is not there.
        features: folder of feature files, searched to any depth.
        seed: of how codes are learned.

    Returns:
        The index, which knows the fate of every feature file, and what was done.

    Raises:
        UserError: there is no feature file, none can be used, or the index cannot be written.
    """
    folder, features = Path(folder), Path(features)
    feature_files(features)  # before a folder is made
    with _locked(folder):
        index = open_index(folder)
        there = feature_files(features)
        changes = plan(index, there)
        todo = [*changes.added, *changes.changed]
        if not changes.kept:  # another tower may have made all of them anew
            todo = list(there)
            index = Index(folder, _most(features, todo), _empty())
        elif changes.removed:
            slides = index.slides[~index.slides["file"].isin(changes.removed)].reset_index(drop=True)
            index = replace(index, slides=slides, refused=_without(index.refused, changes.removed))
            _commit(index)
        todo = sorted({*todo, *_worn(index, bool(todo))})
        while todo:
            index, done = _add(index, features, todo, seed)
            todo = todo[done:]
        if not len(index.slides):
            first = index.fates()[0]
            raise UserError(f"no feature file below '{features}' can be used", first.path, first.reason)
        _clean(index)
    return index, changes


def estimate(features: Path, files: Sequence[str], seed: int = 0) -> tuple[int, float, float, list[Fate]]:
    """What adding files would take: tiles, gigabytes, hours (from building a small shard) and refused files."""
    from core.mil.features import read_header

    parts: list[np.ndarray] = []
    tiles, timed, spent = 0, 0, 0.0
    fates = []
    for file in files:
        try:
            tiles += read_header(features / file).tiles
            if timed < TIMED_TILES:
                start = time.perf_counter()
                parts.append(_read(features / file)[3])
                timed, spent = timed + len(parts[-1]), spent + time.perf_counter() - start
        except UserError as error:
            fates.append(Fate(file, "refused", _reason(error)))
    if not parts:
        return 0, 0.0, 0.0, fates
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        write_shard(Path(scratch) / "timed", parts, seed)
        spent += time.perf_counter() - start
    return tiles, tiles * (2.25 * parts[0].shape[1] + 16) / 1e9, spent / timed * tiles / 3600, fates


def _worn(index: Index, adding: bool) -> list[str]:
    """Files of shards that are to be made anew."""
    worn = []
    for name, group in index.slides.groupby("shard"):
        size, used = len(index.shards[str(name)]), int(group["tiles"].sum())
        if 2 * used < size or (adding and 2 * size < SHARD_TILES):
            worn += list(group["file"])
    return worn


def _add(index: Index, features: Path, todo: Sequence[str], seed: int) -> tuple[Index, int]:
    """Puts the first files of ``todo``, as many as fill a shard, in place of what the index has of them."""
    import pandas as pd

    parts, corners, rows, refused = [], [], [], {}
    tower, first, done = index.tower, 0, 0
    assert tower is not None
    width = next((shard.vectors.shape[1] for shard in index.shards.values()), None)
    name = uuid.uuid4().hex[:12]
    while done < len(todo) and first < SHARD_TILES:
        file = todo[done]
        done += 1
        state = (0, 0)  # of a file that is gone by now
        try:
            state = _state(features / file)
            own, slide, size, vectors, places, sharing = _read(features / file)
            if width not in (None, vectors.shape[1]):
                raise UserError(f"it has {vectors.shape[1]} features a tile, the index {width}", todo="make it anew")
            if own != tower:
                raise UserError(f"its features are of {_said(own)}, those of the index of {_said(tower)}",
                                todo="keep features of one tower in a folder")  # fmt: skip
        except (UserError, OSError) as error:
            refused[file] = (*state, _reason(error))
            continue
        width = vectors.shape[1]
        rows.append((file, slide, name, first, len(vectors), *size, *state, None, sharing))
        parts.append(vectors)
        corners.append(places)
        first += len(vectors)
    new = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    if parts:
        write_shard(index.folder / name, parts, seed)
        _write_corners(index.folder / f"{name}.parquet", np.concatenate(corners))
    old = index.slides.set_index("file")
    for column in old.columns[old.columns.str.startswith(PREFIX) | (old.columns == "path")]:
        new[column] = new["file"].map(old[column])  # what the manifest said holds for a file made anew
    rest = index.slides[~index.slides["file"].isin(todo[:done])]
    slides = pd.concat([rest, new], ignore_index=True) if len(rest) else new
    refused = {**_without(index.refused, todo[:done]), **refused}
    index = Index(index.folder, tower, slides.sort_values("file", ignore_index=True), refused)
    _commit(index)
    return index, done


def annotate(index: Index, paths: Mapping[str, str], columns: pd.DataFrame) -> Index:
    """Keeps with the slides where their files are and what a manifest says of them.

    Args:
        index: an index.
        paths: file of a slide, by its name; slides it does not name keep theirs.
        columns: of the manifest, a row a slide, indexed by its name; when it has columns, they replace all those of
            an earlier manifest.

    Raises:
        UserError: the index cannot be written.
    """
    import pandas as pd

    with _locked(index.folder):
        index = open_index(index.folder)
        slides = index.slides.copy()
        old = zip(slides["slide"], slides["path"], strict=True)
        slides["path"] = pd.Series([paths.get(slide, path) for slide, path in old], slides.index, dtype=object)
        if len(columns.columns):
            slides = slides.drop(columns=index.columns)
            slides = slides.join(columns.add_prefix(PREFIX), on="slide")
        if not slides.equals(index.slides):
            index = replace(index, slides=slides)
            _commit(index)
    return index


def _read(path: Path) -> tuple[Tower, str, tuple[float, float], np.ndarray, np.ndarray, str]:
    """Tower, slide, (width, height) of a tile in level-0 pixels, vectors [T, D], corners int64 [T, 2] and sharing of a
    file."""
    from core.mil.features import read_bag, read_header

    header, bag = read_header(path), read_bag(path)
    said = header.attributes
    pixel = np.array([said.resolution_x, said.resolution_y])
    corners = np.rint(bag.coordinates.astype(np.float64) / pixel).astype(np.int64)
    size = (said.tile_size / said.resolution_x, said.tile_size / said.resolution_y)
    return _tower(header), said.name, size, bag.features, corners, said.sharing


def _state(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _tower(header: Header) -> Tower:
    said = header.attributes
    return Tower(said.encoder, said.weights_sha256, said.space)


def _most(features: Path, files: Sequence[str]) -> Tower:
    """The tower of most tiles.

    Raises:
        UserError: no file can be read.
    """
    from core.mil.features import read_header

    counts: Counter[Tower] = Counter()
    errors = []
    for file in files:
        try:
            header = read_header(features / file)
        except UserError as error:
            errors.append(error)
        else:
            counts[_tower(header)] += header.tiles
    if not counts:
        raise UserError(f"none of {len(files)} feature files below '{features}' can be used", str(errors[0]))
    return counts.most_common(1)[0][0]


def _reason(error: Exception) -> str:
    text = "; ".join(part for part in (error.what, error.todo) if part) if isinstance(error, UserError) else str(error)
    return " ".join(text.split())


def _without(refused: Mapping[str, tuple[int, int, str]], files: Sequence[str]) -> dict[str, tuple[int, int, str]]:
    gone = set(files)
    return {file: state for file, state in refused.items() if file not in gone}


def _said(tower: Tower) -> str:
    return f"'{tower.encoder}'"


def _empty() -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})


def _write_corners(path: Path, corners: np.ndarray) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    with atomic_write(path) as temporary:
        parquet.write_table(pa.table({"x": corners[:, 0], "y": corners[:, 1]}), temporary)


def _commit(index: Index) -> None:
    """Replaces ``slides.parquet``: from now on this is the index."""
    import pyarrow as pa
    from pyarrow import parquet

    assert index.tower is not None
    refused = json.dumps([(file, *state) for file, state in index.refused.items()])
    said = {"schema_version": SCHEMA_VERSION, **asdict(index.tower), "refused": refused}
    table = pa.Table.from_pandas(index.slides, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), **{key: str(value) for key, value in said.items()}}
    with atomic_write(index.folder / SLIDES) as temporary:
        parquet.write_table(table.replace_schema_metadata(metadata), temporary)


def _clean(index: Index) -> None:
    """Removes shards that are no longer named, and what a killed update left."""
    named = set(index.slides["shard"])
    for path in index.folder.iterdir():
        shard = path.suffix in (VECTORS, CODES, ".parquet") and path.name != SLIDES and path.stem not in named
        if shard or path.name.startswith(".writing-"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it, however it ends."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise UserError(f"cannot write the index '{folder}': {error.strerror}", "out",
                        "set out= to a folder that can be written") from error  # fmt: skip
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
