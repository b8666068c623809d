"""What was said of every bag by runs that had not seen it: the table of a cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from core.evaluation.arms import Arm, Run
from core.evaluation.cohort import Cohort, make_evaluation
from core.evaluation.metrics import Metric
from core.evaluation.tables import Results
from core.files import atomic_write

FILE = "out_of_fold.csv"
_TRUTH = ("label", "target", "time", "event")  # columns of items that hold what is true, whatever the run


def out_of_fold(arms: Sequence[Arm]) -> pd.DataFrame:
    """One row a tested bag (a patient, where the bags are patients) of each arm that was cross-validated.

    Args:
        arms: runs over bags that differ in seed and fold alone; those of other roads and without folds are left out.

    Returns:
        Columns arm (where there are several), id, group, fold (it was tested in; several where the seeds divide the
        patients differently, joined by ``|``), seeds, the outcomes averaged over the seeds (``probability.<class>``;
        ``risk`` in deviations of each run's training bags; ``estimate``), and what is true of it (``label``; ``time``
        and ``event``; ``target``).
    """
    tables = []
    for arm in arms:
        runs = [run for run in arm.runs if _is_fold(run)]
        if runs:
            table = _of_arm(runs)
            table.insert(0, "arm", arm.name)
            tables.append(table)
    if not tables:
        return pd.DataFrame()
    everything = pd.concat(tables, ignore_index=True)
    return everything if len(tables) > 1 else everything.drop(columns="arm")


def write_out_of_fold(folder: Path, arms: Sequence[Arm]) -> Path | None:
    """Writes :func:`out_of_fold` into a folder; None where no bag was tested in a fold."""
    table = out_of_fold(arms)
    if table.empty:
        return None
    with atomic_write(folder / FILE) as temporary:
        table.to_csv(temporary, index=False)
    return folder / FILE


def pooled_results(arm: Arm) -> Results | None:
    """The rows of :func:`out_of_fold` of one arm as results of a single run, for its curves.

    Returns:
        One evaluation with the area under the curve of the averaged probabilities, its interval over units; None
        where there are no folds or no classes.
    """
    runs = [run for run in arm.runs if _is_fold(run)]
    names = runs[0].results.details.get(_bags(runs[0]), {}).get("class_names") if runs else None
    if not names:
        return None
    table, name = _of_arm(runs), _bags(runs[0])
    scores = table[[f"probability.{label}" for label in names]].to_numpy(np.float64)
    numbers = {label: number for number, label in enumerate(names)}
    known = {"id": table["id"], "unit": table["group"], "target": table["label"].map(numbers)}
    items = pd.DataFrame({**known, "probabilities": list(scores)})
    note = str(runs[0].config.get("bags.note") or "")
    cohort = Cohort(items["id"].tolist(), items["unit"].tolist(), str(runs[0].config["data.unit"]), note)
    area = Metric(f"{name}/macro_auroc", "auroc", "probabilities")
    made = make_evaluation(name, items, [area], cohort, {}, {"class_names": names})
    return Results(items.assign(evaluation=name), tuple(made.figures), {name: dict(made.details)})


def _bags(run: Run) -> str:
    """What a bag is called in the figures of a run."""
    return str(run.config["data.unit"]) if run.config["bags.of"] == "group" else "bag"


def _is_fold(run: Run) -> bool:
    return run.config.get("road") == "bags" and run.config.get("data.split.fold") is not None


def _of_arm(runs: Sequence[Run]) -> pd.DataFrame:
    parts = []
    for run in runs:
        name = _bags(run)
        items = run.results.items_of(name)
        outcomes = _outcomes(items, run.results.details.get(name, {}).get("class_names", []))
        known = items[[column for column in _truth(items) if items[column].notna().any()]]
        facts = pd.DataFrame({"id": items["id"].astype(str), "group": items["unit"].astype(str)})
        parts.append(facts.assign(fold=str(run.config["data.split.fold"]), seed=run.replicate).join([outcomes, known]))
    every = pd.concat(parts, ignore_index=True)
    own = [str(column) for column in every if column not in ("id", "group", "fold", "seed")]
    said = [column for column in own if column == "estimate" or column.startswith(("probability.", "risk"))]
    rows = every.groupby("id", sort=False)
    folds = rows["fold"].agg(lambda values: "|".join(dict.fromkeys(values)))
    table = rows[["group"]].first().assign(fold=folds, seeds=rows["seed"].nunique())
    true = rows[[column for column in own if column not in said]].first()
    return table.join([rows[said].mean(), true]).reset_index()


def _outcomes(items: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """What a task said of each item, a column an outcome, in numbers that can be averaged over seeds."""
    if len(classes) and "probabilities" in items:
        values = np.stack([np.asarray(row, dtype=np.float64) for row in items["probabilities"]])
        return pd.DataFrame(values, items.index, [f"probability.{name}" for name in classes])
    findings = {
        name: name.replace("probabilities.", "probability.", 1) for name in map(str, items) if _has(items, name)
    }
    return items[list(findings)].rename(columns=findings)


def _has(items: pd.DataFrame, name: str) -> bool:
    """Whether a column is an outcome of this evaluation: the table has those of every evaluation."""
    return (name in ("risk", "estimate") or name.startswith("probabilities.")) and bool(items[name].notna().any())


def _truth(items: pd.DataFrame) -> list[str]:
    """Columns that say what is true; of two that say the same, the name of a class rather than its number."""
    found = [str(name) for name in items if name in _TRUTH or str(name).startswith("targets.")]
    named = "label" in found and bool(items["label"].notna().any())
    return [name for name in found if not (name == "target" and named)]
