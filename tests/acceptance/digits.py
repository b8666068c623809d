"""Bags of scikit-learn's digits in the manner of MNIST-bags (Ilse et al. 2018, arXiv 1802.04712).

A bag is positive where it holds a nine; its size is drawn from N(10, 2). The pictures (8 x 8 pixels) of one split are
in no other one, and within a split they are drawn with replacement, so that one may be in several bags.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

NINE, MEAN, DEVIATION = 9, 10.0, 2.0
SHARES = {"train": 0.5, "val": 0.15, "test": 0.35}  # of the pictures
NOTE = "8 x 8 digits; a picture may be in several bags of its split"


def write(path: Path, bags: dict[str, int], seed: int = 0) -> Path:
    """One CSV with a row an instance: ``bag, label, split, is_nine, f1 .. f64``.

    Args:
        path: of the CSV.
        bags: how many of each split.
        seed: of everything that is drawn.
    """
    from sklearn.datasets import load_digits

    random, digits = np.random.default_rng(seed), load_digits()
    order = random.permutation(len(digits.target))
    ends = np.cumsum([round(share * len(order)) for share in list(SHARES.values())[:-1]])
    rows = []
    for split, pictures in zip(SHARES, np.split(order, ends), strict=True):
        for number in range(bags[split]):
            chosen = random.choice(pictures, max(1, round(random.normal(MEAN, DEVIATION))))
            nines = (digits.target[chosen] == NINE).astype(int)
            rows.append(
                pd.DataFrame(digits.data[chosen], columns=[f"f{column + 1}" for column in range(64)])
                .assign(bag=f"{split}{number}", label=int(nines.any()), split=split, is_nine=nines)
            )  # fmt: skip
    pd.concat(rows, ignore_index=True).to_csv(path, index=False)
    return path


def keys(table: Path) -> list[str]:
    """What ``train`` is told to learn from such a table."""
    return [
        "experiment=bags", "bag_layout=instances", f"manifest={table}", f"bags.features={table}",
        "manifest_options.columns={path: bag, id: bag, group: bag}", "manifest_options.one_per=id", "bags.of=id",
        "bags.standardise=true", "data.unit=bag", f"bags.note='{NOTE}'",
        "+evaluator@evaluation.bags.instances=bag_instances", "evaluation.bags.instances.truth=is_nine",
    ]  # fmt: skip
