"""The seams of the suite: small frozen dataclasses and errors that every room may import.

Nothing here imports torch or numpy at run time, so that command lines stay quick; tensors are only named in
annotations, and :class:`Targets` uses tensor *methods* alone. Alphabet of shapes: ``B`` images, ``C`` captions (or
classes, where said), ``D`` embedding width, ``H W`` pixels, ``L`` tokens, ``U`` unique concept sets, ``W`` ranks.
Coordinates are level-0 pixels of a raster (x to the right, y down, origin at the top left of level 0) unless their
name says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

Unit = Literal["um", "m", "mm"]
Interpolation = Literal["bilinear", "bicubic"]  # both antialiased where a picture is made smaller


class UserError(Exception):
    """A user's mistake: one paragraph that says what is wrong, where, and what to do.

    The entry prints it without a traceback and ends with status 2 (``debug=true`` shows the traceback).

    Args:
        what: the thing and its value, and what was expected.
        where: file, row or key; empty when ``what`` already says it.
        todo: the way out ("set ... or ...").
    """

    def __init__(self, what: str, where: str = "", todo: str = "") -> None:
        self.what, self.where, self.todo = what, where, todo
        super().__init__(what, where, todo)  # all three, so that the error survives pickling

    def __str__(self) -> str:
        parts = [part.removesuffix(".") for part in (self.what, self.where, self.todo)]  # one: "..." is a value to give
        return ". ".join(part for part in parts if part) + "."


@dataclass(frozen=True)
class Fate:
    """What became of one input of a run: a row of ``status.csv``."""

    path: str
    status: Literal["ok", "partial", "refused"]
    reason: str = ""  # empty when ok; otherwise what was wrong and, where there is one, the cure
    counts: Mapping[str, int | float | str] = field(default_factory=dict)  # further columns, e.g. tiles, failed_tiles


# --------------------------------------------------------------------------------------------------------------------
# Rasters


SUPPLIED = "supplied"  # the source of a resolution that somebody gave, which replaces the file's


@dataclass(frozen=True)
class Resolution:
    """Physical size of a level-0 pixel along x and y."""

    x: float
    y: float
    unit: Unit
    source: str  # where it was read: a tag ("openslide.mpp-x"), or SUPPLIED

    @property
    def mean(self) -> float:
        """Geometric mean of both axes, in ``unit`` per pixel."""
        return math.sqrt(self.x * self.y)


@dataclass(frozen=True)
class NoResolution:
    """A named absence: why a raster has no trustworthy resolution, and how to supply one."""

    reason: str  # e.g. "openslide.mpp-x is 352.78, implausible for a slide (0.05 to 10)"
    unit: Unit


@dataclass(frozen=True)
class Window:
    """A rectangle in level-0 pixels; may be fractional and may reach outside of the raster."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Level:
    """One level of a pyramid."""

    width: int
    height: int
    downsample: float  # level-0 pixels per pixel of this level; not an integer in general


@dataclass(frozen=True)
class Pixels:
    """What a read returns."""

    values: np.ndarray  # [H, W, C], uint8 for slides
    valid: np.ndarray  # [H, W] bool; False where the window leaves the raster or the file has no data


@dataclass(frozen=True)
class Geometry:
    """What an image tower was trained on; data of another geometry is refused.

    ``resolution`` is the physical size of an *input* pixel (so the field of view is ``size_px * resolution``), or None
    for a tower that takes whole pictures of unknown scale; such a tower refuses slides.
    """

    size_px: int
    resolution: float | None
    unit: Unit = "um"
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: Interpolation = "bilinear"


# --------------------------------------------------------------------------------------------------------------------
# What a pair should be


class Relation(IntEnum):
    """How the concept set of a row is related to the concept set of a column; the strongest in this order wins."""

    UNRELATED = 0
    DESCENDANT = 1  # some concept of the row is a proper descendant of some concept of the column
    ANCESTOR = 2  # some concept of the row is a proper ancestor of some concept of the column
    SHARED = 3  # the sets intersect
    EQUAL = 4  # the same non-empty set
    GROUP = 5  # another pair of the same group (same grouping concepts or identical caption)
    OWN = 6  # the row's own caption


@dataclass(frozen=True)
class Policy:
    """Turns a :class:`Relation` into one float: the wanted similarity, 0 for a negative, NaN for a pair left out."""

    unrelated: float = 0.0
    descendant: float = 0.0
    ancestor: float = 0.0
    shared: float = 0.0
    equal: float = 0.0
    group: float = 0.0
    own: float = 1.0

    def table(self) -> tuple[float, ...]:
        """Values by relation code."""
        return tuple(float(getattr(self, relation.name.lower())) for relation in Relation)

    @classmethod
    def diagonal(cls) -> Policy:
        """Only a row's own captions are positive: CLIP and SigLIP."""
        return cls()

    @classmethod
    def graph(cls, ancestors: Literal["excluded", "soft", "negative"] = "excluded", soft: float = 0.5) -> Policy:
        """Same group or same concepts are positive, overlapping sets are left out, ancestor pairs by one switch.

        Raises:
            UserError: ``ancestors`` is none of the three words.
        """
        values = {"excluded": math.nan, "soft": soft, "negative": 0.0}
        if ancestors not in values:
            raise UserError(f"objective ancestors is '{ancestors}'", todo="use excluded, soft or negative")
        value = values[ancestors]
        return cls(0.0, value, value, math.nan, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Targets:
    """What each pair of the *global* batch should be; the only way an objective learns it.

    Every rank derives the same Targets from (seed, step), so no relation crosses the wire. Rows are images, columns
    are captions, both in global batch order: rank ``r`` holds rows ``row_splits[r]:row_splits[r+1]`` and columns
    ``column_splits[r]:column_splits[r+1]``. Relations between the U unique concept sets of the batch are sparse (CSR);
    a pair that is not stored is unrelated. An empty set is stored with no relation, not even to itself.
    """

    row_owner: torch.Tensor  # [B] int64: number of the image, unique
    column_owner: torch.Tensor  # [C] int64: number of the image a caption belongs to
    row_group: torch.Tensor  # [B] int64: interned group
    column_group: torch.Tensor  # [C] int64
    row_set: torch.Tensor  # [B] int64 in [0, U)
    column_set: torch.Tensor  # [C] int64 in [0, U)
    indptr: torch.Tensor  # [U + 1] int64
    indices: torch.Tensor  # [nnz] int64 in [0, U): column set
    codes: torch.Tensor  # [nnz] int8: Relation of (row set, column set)
    row_splits: tuple[int, ...]  # W + 1 offsets
    column_splits: tuple[int, ...]  # W + 1 offsets
    row_weight: torch.Tensor | None = None  # [B] float >= 0; None is 1 everywhere
    column_weight: torch.Tensor | None = None  # [C]

    def relations(self, rows: slice, columns: slice) -> torch.Tensor:
        """Relation codes of one tile, [rows, columns] int8."""
        return self._fill(rows, columns, tuple(range(len(Relation))), self.codes)

    def block(self, rows: slice, columns: slice, policy: Policy, like: torch.Tensor) -> torch.Tensor:
        """Wanted similarities of one tile under a policy, [rows, columns] in the dtype of ``like``; NaN: left out."""
        return self._fill(rows, columns, policy.table(), like)

    def exceptions(
        self, rows: slice, columns: slice, policy: Policy, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The pairs of one tile that a policy does not call 0, without a dense tile of floats: (i, j, value), [k] each.

        ``i`` and ``j`` count within the tile; ``value`` is what ``block`` has there, in the dtype of ``like``.
        """
        values = policy.table()
        marks = tuple(0 if value == 0 else code + 1 for code, value in enumerate(values))
        tile = self._fill(rows, columns, marks, self.codes)
        i, j = tile.nonzero(as_tuple=True)
        return i, j, like.new_tensor((0.0, *values))[tile[i, j].long()]

    def _fill(self, rows: slice, columns: slice, table: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
        """One tile of ``table[relation]``; a layer that would change nothing (CLIP's diagonal) is not even compared."""
        plain, group, own = table[Relation.UNRELATED], table[Relation.GROUP], table[Relation.OWN]
        row_group, column_group = self.row_group[rows], self.column_group[columns]
        tile = like.new_full((len(row_group), len(column_group)), plain)
        layered = any(value != plain for value in table[: Relation.GROUP])
        if layered:
            tile = self._sets(self.row_set[rows], table, tile)[:, self.column_set[columns]]
        if layered or group != plain:
            tile = tile.masked_fill(row_group[:, None] == column_group[None, :], group)
        return tile.masked_fill(self.row_owner[rows][:, None] == self.column_owner[columns][None, :], own)

    def _sets(self, sets: torch.Tensor, table: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
        """``table[relation]`` of some sets to all U sets, [len(sets), U]: sparse rows made dense."""
        strip = like.new_full((len(sets), len(self.indptr) - 1), table[Relation.UNRELATED])
        start, stop = self.indptr[sets], self.indptr[sets + 1]
        lengths = stop - start
        line = (start * 0 + 1).cumsum(0).sub(1).repeat_interleave(lengths)  # arange by tensor methods
        first = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        entry = start.repeat_interleave(lengths) + ((line * 0 + 1).cumsum(0) - 1 - first)
        strip[line, self.indices[entry]] = like.new_tensor(table)[self.codes[entry].long()]
        return strip

    def to(self, device: Any) -> Targets:
        """The same targets with every tensor on ``device``."""
        moved = {
            name: value.to(device)
            for name, value in vars(self).items()
            if value is not None and not name.endswith("splits")
        }
        return replace(self, **moved)


# --------------------------------------------------------------------------------------------------------------------
# Training


@dataclass(frozen=True)
class Batch:
    """The share of one rank (or a micro-batch of it).

    ``images`` are uint8: the model normalises, so that training, evaluation and prediction cannot disagree on it.
    """

    step: int  # optimiser step the batch belongs to
    images: torch.Tensor  # [b, 3, H, W] uint8
    tokens: torch.Tensor  # [c, L] int64; empty [0, L] for image-only data
    owner: torch.Tensor  # [c] int64, ascending: index in ``images`` of the image of a caption
    targets: Targets | None  # of the whole global batch
    ids: tuple[str, ...]  # [b] manifest ids, to name samples in errors
    labels: torch.Tensor | None = None  # [b] int64 class, -1 unknown; only for supervised tasks

    def to(self, device: Any) -> Batch:
        """The same batch on ``device`` (Lightning calls this)."""
        return replace(
            self,
            images=self.images.to(device),
            tokens=self.tokens.to(device),
            owner=self.owner.to(device),
            targets=None if self.targets is None else self.targets.to(device),
            labels=None if self.labels is None else self.labels.to(device),
        )

    def micro(self, size: int) -> list[Batch]:
        """Cuts the batch into micro-batches of at most ``size`` images, each with its own captions."""
        parts = []
        for start in range(0, len(self.ids), size):
            stop = min(start + size, len(self.ids))
            mine = (self.owner >= start) & (self.owner < stop)
            parts.append(
                replace(
                    self,
                    images=self.images[start:stop],
                    tokens=self.tokens[mine],
                    owner=self.owner[mine] - start,
                    ids=self.ids[start:stop],
                    labels=None if self.labels is None else self.labels[start:stop],
                )
            )
        return parts


@dataclass(frozen=True)
class Encoded:
    """What a task's ``encode`` gives for a (micro-)batch.

    ``embeddings`` are the tensors that couple samples in the loss, each with samples along dimension 0, in batch order;
    ``terms`` are losses that need no other sample, already the share of this (micro-)batch in the whole global batch.
    """

    embeddings: Mapping[str, torch.Tensor]
    terms: Mapping[str, torch.Tensor] = field(default_factory=dict)
    targets: Any = None  # Targets of the global batch, or labels of this rank


@dataclass(frozen=True)
class LossTerms:
    """The share of this rank: the sum over ranks is the loss of the whole global batch."""

    loss: torch.Tensor  # scalar
    parts: Mapping[str, torch.Tensor] = field(default_factory=dict)  # detached scalars to log, shares as well


# --------------------------------------------------------------------------------------------------------------------
# Evaluation


@dataclass(frozen=True)
class Figure:
    """One number that may be shown: never without its unit, its interval and its control."""

    name: str  # "zero_shot/leaf_accuracy"
    value: float
    low: float  # bounds of the 95 % bootstrap interval over ``unit``; NaN where no interval is possible
    high: float
    n: int  # number of items
    units: int  # number of independent units
    unit: str  # "patient", "image", ...: what was resampled
    controls: Mapping[str, float] = field(default_factory=dict)  # {"chance": 0.08, "majority": 0.2, "resnet18": 0.5}
    note: str = ""  # "synthetic", "text-prompted", ...


@dataclass(frozen=True)
class Evaluation:
    """Result of one evaluator."""

    name: str  # "zero_shot", "retrieval", "probe"
    items: pd.DataFrame  # one row per item: id, unit, and what the evaluator measured on it
    figures: Sequence[Figure]
    details: Mapping[str, Any] = field(default_factory=dict)  # JSON-able: prompts, confusion, class names ...
