"""What is written of the bags of a manifest, linked to the graph: as on the road of pictures, with one row a bag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from core.data.describe import describe
from core.data.manifest import Manifest
from core.data.texts import Texts
from core.mil.cohort import rows_by_name
from core.mil.texts import BagTexts
from core.run.inputs import caption_chooser, graph_path, linked
from core.types import UserError


def bag_texts(cfg: DictConfig, manifest: Manifest, tokenize: Callable[[list[str]], Tensor]) -> BagTexts:
    """Captions, concepts and relations of the bags of a manifest; says what was linked.

    Args:
        cfg: of the run; ``bags.context`` names the column of a text that is read together with a bag.
        manifest: a row a slide, with splits.
        tokenize: of the task's text tower.

    Raises:
        UserError: a column is not there, or anything about the graph.
    """
    bags = one_row_a_bag(manifest, cfg.bags.of)
    inputs = linked(cfg, bags, (), graph_path(cfg, manifest.path))
    describe(bags, (), (), inputs.concepts, inputs.relations.group, inputs.group_names, cfg.data.sharing)
    count = len(bags.frame)
    return BagTexts(
        Texts(caption_chooser(cfg, inputs), inputs.relations, tokenize),
        bags.frame["captions"].tolist(),
        [frozenset()] * count if inputs.concepts is None else inputs.concepts.sets,
        inputs.graph,
        None if cfg.bags.context is None else read_context(manifest, cfg.bags.context, cfg.bags.of),
    )


def one_row_a_bag(manifest: Manifest, of: Literal["group", "id"]) -> Manifest:
    """The first row of each bag, with the captions and concepts of all its slides, and the label they agree on."""
    frame = manifest.frame
    rows_of = list(rows_by_name(frame[of].astype(str)).values())
    first = frame.iloc[[rows[0] for rows in rows_of]].copy()
    for column in ("captions", "concepts"):
        cells = frame[column].tolist()
        first[column] = [list(dict.fromkeys(text for row in rows for text in cells[row])) for rows in rows_of]
    labels = frame["label"].tolist()
    told = [list(dict.fromkeys(labels[row] for row in rows if labels[row] is not None)) for rows in rows_of]
    first["label"] = np.array([names[0] if len(names) == 1 else None for names in told], dtype=object)
    return manifest.with_frame(first)


def read_context(manifest: Manifest, column: str, of: Literal["group", "id"]) -> list[str]:
    """What is written in a column of each bag's slides, each text once; "" where nothing is.

    Raises:
        UserError: there is no such column.
    """
    frame = manifest.frame
    if column not in frame:
        raise UserError(
            f"the manifest has no column '{column}' to read together with a bag",
            "bags.context",
            f"name another, or null to see bags alone; there are: {', '.join(frame.columns)}",
        )
    texts = frame[column].tolist()
    told = [
        dict.fromkeys(texts[row].strip() for row in rows if isinstance(texts[row], str))
        for rows in rows_by_name(frame[of].astype(str)).values()
    ]
    return [" ".join(filter(None, several)) for several in told]
