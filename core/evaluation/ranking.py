"""A vocabulary ranked by text for each item: how far down the first right entry stands."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import gammaln

from core.evaluation.cohort import Cohort, make_evaluation
from core.evaluation.metrics import FloatArray, Metric
from core.types import Evaluation, UserError

KS = (1, 3, 10)
TOP = 5  # entries kept an item


def ranking(
    scores: npt.ArrayLike,
    held: Sequence[frozenset[int]],
    names: Sequence[str],
    frequency: npt.ArrayLike,
    cohort: Cohort,
    source: str,
) -> Evaluation:
    """Hit among the first 1, 3 and 10, and the mean reciprocal rank, as ``ranking``.

    The rank of an item is the place of the best of its own entries; every other entry with an equal score stands
    before it, so a model that likes all alike earns nothing. Items without an entry of their own are left out and
    counted.

    Args:
        scores: [N, V] how well each entry fits each item.
        held: [N] which entries are right for each item.
        names: [V] the entries.
        frequency: [V] training items that hold each entry.
        cohort: of the N items.
        source: where the vocabulary is from.

    Returns:
        Items: id, unit, caption (the right entries), rank, reciprocal_rank, hits, hit@k, retrieved (the first five).
        Controls, both exact expectations: ``chance``, a random order; ``majority``, the order of training frequency,
        with equally frequent entries in random order.

    Raises:
        UserError: no item has an entry of its own.
    """
    table = np.asarray(scores, dtype=np.float64)
    kept = [item for item, own in enumerate(held) if own]
    if not kept:
        raise UserError(
            f"no test item has an entry of the vocabulary ({source})",
            "evaluation.bags.figures.vocabulary",
            "give a vocabulary that its concepts are in, or look at how captions were linked",
        )
    counts = np.asarray(frequency, dtype=np.float64)
    rows, blind = [], []
    for item in kept:
        own = np.zeros(len(names), dtype=bool)
        own[sorted(held[item])] = True
        line = table[item]
        rank = int(((line >= line[own].max()) & ~own).sum()) + 1
        best = counts[own].max()  # of its entries the most frequent in training comes first
        tied = counts == best
        blind.append(
            expected(0, int(own.sum()), len(own))
            + expected(int((counts > best).sum()), int((own & tied).sum()), int(tied.sum()))
        )
        first = np.argsort(-line, kind="stable")[:TOP]
        rows.append(
            {
                "id": str(cohort.ids[item]),
                "unit": str(cohort.units[item]),
                "caption": "; ".join(names[entry] for entry in sorted(held[item])),
                "rank": rank,
                "reciprocal_rank": 1 / rank,
                "hits": int(own.sum()),
                **{f"hit@{k}": rank <= k for k in KS},
                "retrieved": [names[entry] for entry in first],
            }
        )
    shorts = [*(f"hit@{k}" for k in KS), "mean_reciprocal_rank"]
    metrics = [Metric(f"ranking/{short}", "mean", short) for short in shorts[:-1]]
    metrics.append(Metric("ranking/mean_reciprocal_rank", "mean", "reciprocal_rank"))
    means = np.array(blind).mean(axis=0)
    controls = {
        "chance": dict(zip(shorts, means[: len(shorts)].tolist(), strict=True)),
        "majority": dict(zip(shorts, means[len(shorts) :].tolist(), strict=True)),
    }
    details = {"vocabulary": len(names), "source": source, "left_out": len(held) - len(kept)}
    return make_evaluation("ranking", pd.DataFrame(rows), metrics, cohort, controls, details)


@lru_cache(maxsize=4096)
def expected(above: int, hits: int, size: int) -> tuple[float, ...]:
    """Expected hit among the first 1, 3 and 10, and expected reciprocal rank, of an order that is random in part.

    ``above`` wrong entries come first, then ``size`` entries in random order, of which ``hits`` are right: the first of
    them is at place r of these with probability ``C(size - r, hits - 1) / C(size, hits)``.
    """
    place = np.arange(1, size - hits + 2)
    logarithm = _log_choose(size - place, hits - 1) - _log_choose(np.array(size), hits)
    share: FloatArray = np.exp(logarithm)
    rank = above + place
    return (*(float(share[rank <= k].sum()) for k in KS), float((share / rank).sum()))


def _log_choose(n: npt.NDArray[np.int64], k: int) -> FloatArray:
    result: FloatArray = gammaln(n + 1.0) - gammaln(k + 1.0) - gammaln(n - k + 1.0)
    return result
