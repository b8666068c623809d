"""What evaluators are given: a trained model, the splits it is asked about, classes, prompts.

An evaluator is a callable ``(Subject, Controls) -> Sequence[Evaluation]``, one file and one YAML in ``conf/evaluator``;
it gives nothing where the data have not what it needs. Each split goes through the model once, when it is first wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from rich.progress import track

from core.data.module import PairsDataModule
from core.evaluation.cohort import Classes, Cohort, Controls
from core.evaluation.prompts import Prompts, encode_prompts
from core.models.dual_encoder import DualEncoder
from core.types import Evaluation

Pictures = Iterable[tuple[np.ndarray, torch.Tensor]]  # rows [b] int64 and uint8 [b, 3, s, s]


class Evaluator(Protocol):
    """Measures a subject; ``controls`` hold what stands beside its figures, by control and short name."""

    def __call__(self, subject: Subject, controls: Controls, /) -> Sequence[Evaluation]: ...


@dataclass(frozen=True)
class Embedded:
    """Pictures of one split through the image tower, in file order."""

    rows: np.ndarray  # [n] int64: manifest rows
    labels: np.ndarray  # [n] int64: class, -1 unknown
    embeddings: np.ndarray  # [n, D] float32, unit
    features: np.ndarray  # [n, width] float32, before the projection

    def labelled(self) -> Embedded:
        """Those of known class."""
        keep = self.labels >= 0
        return Embedded(self.rows[keep], self.labels[keep], self.embeddings[keep], self.features[keep])


class Subject:
    """One model and its data.

    Args:
        model: trained.
        data: prepared.
        classes: None where training knows no two classes.
        names: of each class, for its prompts.
        templates: of prompts, with one ``{}`` each.
        unit: what the independent unit is called.
        note: shown with every figure.
        split: which one is tested.
    """

    def __init__(
        self,
        model: DualEncoder,
        data: PairsDataModule,
        classes: Classes | None,
        names: Mapping[str, Sequence[str]],
        templates: Sequence[str],
        unit: str,
        note: str = "",
        split: str = "test",
    ) -> None:
        self.model, self.data, self.classes = model, data, classes
        self.unit, self.note, self.split = unit, note, split
        self._names, self._templates = names, templates

    @cached_property
    def test(self) -> Embedded:
        """The tested split."""
        return self._embed(self.split)

    @cached_property
    def train(self) -> Embedded:
        """The training pictures of known class, not augmented."""
        return self._embed("train").labelled()

    @cached_property
    def prompts(self) -> Prompts:
        """Every prompt of every class, embedded."""
        return encode_prompts(self.model, self._names, self._templates)

    def cohort(self, rows: np.ndarray) -> Cohort:
        """Ids and independent units of manifest rows."""
        frame = self.data.manifest.frame.iloc[rows]
        return Cohort(frame["id"].tolist(), frame["group"].astype(str).tolist(), self.unit, self.note)

    def pictures(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Tiles of manifest rows one by one, uint8 [3, s, s]: not all of them fit into memory."""
        return (self.data.tiles.get(int(row)) for row in rows)

    def _embed(self, split: str, batch_size: int = 128) -> Embedded:
        batches = self.data.eval_images(split, batch_size)
        total = -(-len(self.data.rows(split)) // batch_size)
        shown = track(batches, f"embedding {split}", total=total, transient=True)
        rows, embeddings, features = embed_pictures(self.model, shown)
        return Embedded(rows, self.data.labels[rows], embeddings, features)


def embed_pictures(model: DualEncoder, batches: Pictures) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows [n], unit embeddings [n, D] and features before the projection [n, width], on the model's device."""
    device = next(model.parameters()).device
    model.eval()
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with torch.inference_mode():
        for rows, images in batches:
            embeddings, features = model.embed_images(images.to(device))
            parts.append((rows, embeddings.cpu().numpy(), features.cpu().numpy()))
    if not parts:
        nothing = np.zeros((0, model.embed_dim), np.float32)
        return np.zeros(0, np.int64), nothing, nothing
    rows, embedded, pooled = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows, embedded, pooled


def embed_captions(model: DualEncoder, texts: Sequence[str], batch: int = 256) -> np.ndarray:
    """Unit embeddings of texts, float32 [n, D]."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        parts = [
            model.encode_texts(model.tokenize(list(texts[start : start + batch])).to(device)).cpu().numpy()
            for start in range(0, len(texts), batch)
        ]
    return np.concatenate(parts)
