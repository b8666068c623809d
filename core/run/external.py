"""A second labelled set that a run never trained on: does what it learned carry to another scanner, site or sensor?

Both sets keep their own class names; a table says which of them mean the same (``set,label,shared``), and without one
equal names do. A model is asked for the shared classes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig

from core.data.tiles import TileSource, chunks
from core.evaluation.classification import classification
from core.evaluation.cohort import Classes, Cohort
from core.evaluation.probe import fit_predict
from core.evaluation.prompts import Prompts
from core.evaluation.subject import Subject, embed_pictures
from core.evaluation.zero_shot import zero_shot
from core.run.instantiate import instantiate
from core.run.tables import external_options, read_manifest
from core.types import Evaluation, Fate, UserError


def shared_classes(path: str | Path | None, labels: Sequence[str]) -> dict[str, str]:
    """Shared class of each label of one set; without a table every label is its own.

    Raises:
        UserError: the table has other columns, or no label of the set is in it.
    """
    if path is None:
        return {label: label for label in labels}
    table = pd.read_csv(path, dtype=str)
    if list(table.columns) != ["set", "label", "shared"]:
        raise UserError(f"columns are {list(table.columns)}, expected set, label and shared", str(path))
    mapping = {label: shared for label, shared in zip(table["label"], table["shared"], strict=True) if label in labels}
    if not mapping:
        raise UserError(f"none of the labels {', '.join(labels[:5])} is in the table", str(path), "add them")
    return mapping


def evaluate_external(cfg: DictConfig, subject: Subject) -> tuple[list[Evaluation], list[Fate]]:
    """Zero-shot and the probe of the training set on ``data.external``, over the shared classes.

    Args:
        cfg: with ``data.external: {manifest, columns, resolution, classes}``.
        subject: with classes; the prompts of a shared class are put together.

    Returns:
        ``external_zero_shot`` and ``external_probe``, and what became of the files. An item's id names the fold,
        because each fold's model is asked.

    Raises:
        UserError: no class is shared, or no picture can be read.
    """
    external, model, classes = cfg.data.external, subject.model, subject.classes
    assert classes is not None
    manifest = read_manifest(Path(external.manifest), external_options(external))
    theirs = shared_classes(external.classes, sorted(set(manifest.frame["label"].dropna())))
    ours = shared_classes(external.classes, classes.names)
    names = tuple(sorted(set(theirs.values()) & set(ours.values())))
    manifest = manifest.with_frame(manifest.frame[manifest.frame["label"].map(theirs).isin(names)])
    tiles = TileSource(manifest, instantiate(cfg.reader), model.geometry, resolution=external.resolution)
    rows = tiles.decode_all(np.arange(len(manifest.frame)), progress=False)
    fates = [*manifest.fates, *tiles.fates()]
    if not len(rows):
        why = fates[0].reason if fates else f"it shares no class with the run ({', '.join(classes.names[:5])})"
        raise UserError(f"nothing can be evaluated: {why}", str(manifest.path))
    frame = manifest.frame.iloc[rows]
    truth = np.array([names.index(theirs[label]) for label in frame["label"]], np.int64)
    to_shared = np.array([names.index(ours[name]) if ours.get(name) in names else -1 for name in classes.names])
    counts = np.bincount(to_shared[to_shared >= 0], classes.train_counts[to_shared >= 0], len(names)).astype(np.int64)
    shared = Classes(names, counts, None, classes.rare_share)
    mark = "" if cfg.data.split.fold is None else f"@fold{cfg.data.split.fold}"
    ids = [f"{name}{mark}" for name in frame["id"]]
    cohort = Cohort(ids, frame["group"].astype(str).tolist(), cfg.data.unit, "another set")
    prompts = subject.prompts
    kept = to_shared[prompts.owner] >= 0
    merged = Prompts(
        names,
        tuple(text for text, keep in zip(prompts.texts, kept, strict=True) if keep),
        prompts.embeddings[kept],
        to_shared[prompts.owner][kept],
        prompts.name[kept],
        prompts.template[kept],
    )
    batches = ((part, torch.from_numpy(np.stack([tiles.get(int(row)) for row in part]))) for part in chunks(rows, 128))
    _, embeddings, features = embed_pictures(model, batches)
    known = to_shared[subject.train.labels] >= 0
    learned = subject.train.features[known], to_shared[subject.train.labels][known]
    probabilities = fit_predict(*learned, features, len(names))
    evaluations = [
        zero_shot(embeddings, merged.weights(), truth, shared, cohort, scale=model.scale, name="external_zero_shot"),
        classification("external_probe", probabilities, truth, shared, cohort),
    ]
    return evaluations, fates
