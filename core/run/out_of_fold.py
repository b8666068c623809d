"""What is left of a cross-validation over bags: the table of what was said of each, and its ROC curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from core.evaluation.arms import Arm
from core.evaluation.out_of_fold import pooled_results, write_out_of_fold
from core.report.bag_figures import curves_of_bags
from core.report.figures import save

ROC = "out_of_fold_roc"


def keep_out_of_fold(folder: Path, arms: Sequence[Arm], console: Console) -> None:
    """Writes ``out_of_fold.csv`` where bags were tested in folds, and for classes ``figures/out_of_fold_roc.pdf`` and
    its ``.csv``: the curve of a single run, over all folds. Several arms have numbers, and their names in the title.
    """
    table = write_out_of_fold(folder, arms)
    if table is None:
        return
    console.print(f"out of fold: {table}", markup=False, soft_wrap=True)
    pooled = [(arm.name, found) for arm in arms if (found := pooled_results(arm)) is not None]
    for number, (label, results) in enumerate(pooled, start=1):
        name = ROC if len(pooled) == 1 else f"{ROC}_{number}"
        plot, frame = curves_of_bags(results)["roc"]
        if len(pooled) > 1:
            axes = plot.axes[0]
            axes.set_title(f"{label}\n{axes.get_title()}")
            frame = frame.assign(arm=label)
        save(plot, frame, folder, name)
        console.print(f"roc: {folder / 'figures' / name}.pdf", markup=False, soft_wrap=True)
