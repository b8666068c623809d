"""One item of the dataset is the batch of one optimiser step, so its order cannot depend on workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from core.data.augment import DRAWS, Augment
from core.data.captions import CaptionChooser
from core.data.samplers import Sampler, philox, shard
from core.data.targets import Relations
from core.data.texts import Texts, Tokenize
from core.data.tiles import TileSource
from core.types import Batch, UserError


@dataclass(frozen=True)
class Failed:
    """An error that crosses from a worker as a value: torch would bury its sentence in a traceback."""

    error: UserError


@dataclass(frozen=True)
class PairDataset(Dataset[Batch | Failed]):
    """Batches of one rank by step, a pure function of (seed, step, rank)."""

    tiles: TileSource
    rows: np.ndarray  # [n] manifest rows that train, in file order
    sampler: Sampler  # over positions in ``rows``
    captions: CaptionChooser | None  # None: pictures and labels alone
    relations: Relations
    tokenize: Tokenize | None
    ids: list[str]  # of all manifest rows
    labels: np.ndarray | None  # [N] int64 class of each manifest row, -1 unknown
    augment: Augment | None
    seed: int
    rank: int = 0
    size: int = 1

    def __getitem__(self, step: int) -> Batch | Failed:
        try:
            return self.batch(step)
        except UserError as error:
            return Failed(error)

    def batch(self, step: int) -> Batch:
        """This rank's share of the batch of a step, with the targets of the whole batch."""
        rows = self.rows[self.sampler.batch(step)]
        splits, mine = shard(rows, self.rank, self.size)
        images = torch.from_numpy(self.images(step, mine, splits[self.rank], len(rows)))
        tokens, owner, targets = torch.empty((0, 0), dtype=torch.int64), torch.empty(0, dtype=torch.int64), None
        if self.captions is not None and self.tokenize is not None:
            texts = Texts(self.captions, self.relations, self.tokenize)
            (tokens, owner), targets = texts.draw(step, mine), texts.targets(rows, splits)
        return Batch(
            step=step,
            images=images,
            tokens=tokens,
            owner=owner,
            targets=targets,
            ids=tuple(self.ids[row] for row in mine),
            labels=None if self.labels is None else torch.from_numpy(self.labels[mine]),
        )

    def images(self, step: int, rows: np.ndarray, first: int, total: int) -> np.ndarray:
        """The augmented tiles of the rows at ``first`` and after in the global batch of ``total``, uint8 [b, 3, s, s].

        Randomness belongs to (seed, step, place in the global batch): how the batch is split does not change it.
        """
        pixels = np.stack([self._read(step, int(row)) for row in rows])
        if self.augment is None:
            return pixels
        draws = philox(self.seed, 4, step).random((total, DRAWS))
        return self.augment(pixels, draws[first : first + len(rows)])

    def _read(self, step: int, row: int) -> np.ndarray:
        try:
            return self.tiles.get(row)
        except (UserError, OSError):
            self.tiles.late[row] += 1
        # The tile was sound before training, and other ranks cannot learn that it no longer is. A picture of the same
        # group and the same concepts takes its place: every relation that the targets state stays true.
        group, concepts = self.relations.group, self.relations.set_id
        alike = self.rows[(group[self.rows] == group[row]) & (concepts[self.rows] == concepts[row])]
        for other in philox(self.seed, 5, step, row).permutation(alike[alike != row]):
            try:
                return self.tiles.get(int(other))
            except (UserError, OSError):
                self.tiles.late[other] += 1
        raise UserError(
            f"a picture of row '{self.ids[row]}' was readable before training and no longer is",
            f"step {step}",
            "restore the file and resume, or delete its row and start again",
        )
