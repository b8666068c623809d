"""Retrieval between images and texts, both ways, with duplicates credited and ties counted against the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.special import gammaln

from core.evaluation.cohort import Cohort, Controls, make_evaluation
from core.evaluation.metrics import Metric
from core.evaluation.subject import Subject, embed_captions
from core.types import Evaluation

KS = (1, 5, 10)
_TOP = 5  # retrieved items kept a query


class Retrieval:
    """Between the test pictures and their written captions, as ``retrieval``."""

    def __call__(self, subject: Subject, controls: Controls, /) -> list[Evaluation]:
        test = subject.test
        frame = subject.data.manifest.frame.iloc[test.rows]
        captions = frame["captions"].tolist()
        texts = [text for several in captions for text in several]
        if not texts:
            return []
        owner = np.repeat(np.arange(len(test.rows)), [len(several) for several in captions])
        # windows of one slide are other pictures than the slide
        where = zip(*(frame[name] for name in ("path", "x", "y", "w", "h")), strict=True)
        keys = ["@".join(map(str, place)) for place in where]
        embedded = embed_captions(subject.model, texts)
        return [retrieval(test.embeddings, embedded, owner, texts, subject.cohort(test.rows), keys)]


def retrieval(
    images: npt.ArrayLike,
    texts: npt.ArrayLike,
    owner: npt.ArrayLike,
    captions: Sequence[str],
    cohort: Cohort,
    image_keys: Sequence[str] | None = None,
) -> Evaluation:
    """Recall at 1, 5 and 10 and the median rank, image to text and text to image.

    A hit is the own partner or one that cannot be told from it: a text with an identical caption (white space and
    case aside), or an image with the same key. The rank of a query is the place of its best hit; everything else with
    an equal score stands before it, so a model that embeds all alike earns nothing.

    Args:
        images: [N, D] unit vectors.
        texts: [M, D] unit vectors.
        owner: [M] int, index of the image a text belongs to.
        captions: [M] texts.
        cohort: of the N images; a text has the unit of its image.
        image_keys: [N] equal for identical images (a content hash); by default the id.

    Returns:
        Items: one row a query with id, unit, direction, caption, rank, hits (correct items in the gallery), hit@1,
        hit@5, hit@10, and the first five retrieved (ids or texts). Controls: chance for a random order of the same
        gallery, exactly.

    Warning:
        Recall depends on the size of the gallery: compare runs on the same split alone.
    """
    image, text = np.asarray(images, dtype=np.float32), np.asarray(texts, dtype=np.float32)
    owners = np.asarray(owner, dtype=np.int64)
    ids = np.asarray(cohort.ids, dtype=object).astype(str)
    caption_key = _codes([" ".join(caption.lower().split()) for caption in captions])
    image_key = _codes([str(i) for i in ids] if image_keys is None else list(image_keys))
    # pairs of (image key, caption key) that belong together; a hit is any pair of this table
    shape = (image_key.max() + 1, caption_key.max() + 1)
    together = coo_array((np.ones(len(owners), dtype=bool), (image_key[owners], caption_key)), shape).tocsr()
    across = together.T.tocsr()
    units = np.asarray(cohort.units, dtype=object).astype(str)
    number = pd.Series(owners).groupby(owners).cumcount().to_numpy()  # which of its image's captions a text is
    text_ids = np.array([f"{ids[o]}#{k}" for o, k in zip(owners, number, strict=True)], dtype=object)
    shown = np.asarray(captions, dtype=object)
    # an image without any text has nothing to find, so it is no query (but it is in the gallery of the other way)
    asked, first_text = np.unique(owners, return_index=True)

    to_text = _rank(image[asked], text, lambda rows: together[image_key[asked[rows]]].toarray()[:, caption_key], shown)
    to_image = _rank(text, image, lambda rows: across[caption_key[rows]].toarray()[:, image_key], ids)
    tables = [
        pd.DataFrame(
            {
                "id": ids[asked],
                "unit": units[asked],
                "direction": "image_to_text",
                "caption": shown[first_text],
                **to_text,
            }
        ),
        pd.DataFrame(
            {"id": text_ids, "unit": units[owners], "direction": "text_to_image", "caption": shown, **to_image}
        ),
    ]
    items = pd.concat(tables, ignore_index=True)
    items["rank.chance"] = np.nan
    metrics, chance = [], {}
    for direction, size in (("image_to_text", len(text)), ("text_to_image", len(image))):
        mine = items["direction"] == direction
        hits = items.loc[mine, "hits"].to_numpy(dtype=np.float64)
        for k in KS:
            short = f"{direction}/recall@{k}"
            metrics.append(Metric(f"retrieval/{short}", "mean", f"hit@{k}", f"direction={direction}"))
            chance[short] = float(chance_recall(hits, size, k).mean())
        short = f"{direction}/median_rank"
        metrics.append(Metric(f"retrieval/{short}", "median", "rank", f"direction={direction}", "lower"))
        items.loc[mine, "rank.chance"] = (size + 1) / (hits + 1)  # expected place of the best of h hits
        chance[short] = float(np.median(items.loc[mine, "rank.chance"]))
    details = {"images": len(image), "texts": len(text), "distinct_texts": int(caption_key.max()) + 1}
    return make_evaluation("retrieval", items, metrics, cohort, {"chance": chance}, details)


def chance_recall(hits: npt.ArrayLike, size: int, k: int) -> npt.NDArray[np.float64]:
    """Probability that a random order of ``size`` items has one of the ``hits`` among its first ``k``.

    ``1 - C(size - hits, k) / C(size, k)``.
    """
    h = np.asarray(hits, dtype=np.float64)
    k = min(k, size)
    possible = size - h >= k
    rest = np.where(possible, size - h, k)
    missed = gammaln(rest + 1) - gammaln(rest - k + 1) - gammaln(size + 1) + gammaln(size - k + 1)
    return np.where(possible, 1 - np.exp(missed), 1.0)


def _rank(
    queries: npt.NDArray[np.float32],
    gallery: npt.NDArray[np.float32],
    hits_of: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.bool_]],
    names: npt.NDArray[Any],
    block: int = 512,
) -> dict[str, object]:
    """Rank of the best hit of each query, in blocks so that the score matrix never exists as a whole."""
    ranks: list[npt.NDArray[np.int64]] = []
    counts: list[npt.NDArray[np.int64]] = []
    retrieved: list[list[str]] = []
    for start in range(0, len(queries), block):
        rows = np.arange(start, min(start + block, len(queries)))
        scores = queries[rows] @ gallery.T
        hit = hits_of(rows)  # [rows, gallery] bool
        best = np.where(hit, scores, -np.inf).max(axis=1)
        ranks.append(((scores >= best[:, None]) & ~hit).sum(axis=1) + 1)
        counts.append(hit.sum(axis=1))
        order = np.argsort(-scores, axis=1, kind="stable")[:, :_TOP]
        retrieved.extend(names[line].tolist() for line in order)
    rank = np.concatenate(ranks)
    columns: dict[str, object] = {"rank": rank, "hits": np.concatenate(counts)}
    columns.update({f"hit@{k}": rank <= k for k in KS})
    return {**columns, "retrieved": retrieved}


def _codes(keys: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.unique(np.asarray(keys, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)
