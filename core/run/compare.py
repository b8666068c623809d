"""The verb ``compare``: runs of several arms, paired by seed and item."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from omegaconf import DictConfig, ListConfig
from rich.console import Console
from rich.table import Table

from core.evaluation.arms import find_arms, find_runs
from core.evaluation.compare import Comparison, compare
from core.report.comparison import write_comparison
from core.run.out_of_fold import keep_out_of_fold
from core.types import UserError


def run(cfg: DictConfig, folder: Path) -> int:
    """Compares ``runs=`` (run folders, or the folder of a multirun) into ``compare.csv``, ``.html`` and ``.tex``; of
    cross-validated bags also ``out_of_fold.csv`` and its ROC curve.

    Raises:
        UserError: no runs, no such baseline, or runs of one seed were evaluated on different items.
    """
    if not cfg.runs:
        raise UserError("no runs to compare", "runs", "give runs=<folder of a multirun> or a list of run folders")
    given = list(cfg.runs) if isinstance(cfg.runs, ListConfig) else [cfg.runs]
    runs, unfinished = find_runs(given)
    arms, factors = find_arms(runs)
    console = Console()
    for path in unfinished:
        console.print(f"left out, no results: {path}", markup=False, soft_wrap=True)
    if cfg.get("dry_run"):
        for name, found in ("runs", runs), ("unfinished", unfinished), ("arms", arms), ("factors", factors):
            console.print(f"{name}: {len(found)}", highlight=False)
        return 0
    result = compare(arms, factors, cfg.compare.baseline)
    show(result, console)
    page = write_comparison(folder, result)
    console.print(f"comparison: {page}", markup=False, soft_wrap=True)
    keep_out_of_fold(folder, arms, console)
    return 0


def show(result: Comparison, console: Console) -> None:
    """Prints a value per figure and arm, then the paired differences, one block a pair of levels."""
    letters = dict(zip(result.arms, _letters(), strict=False))
    for arm, letter in letters.items():
        console.print(f"{letter}: {arm}", markup=False, soft_wrap=True)
    for cohort, table in result.values.groupby("cohort", sort=False):
        values = Table("figure", *letters.values(), title=f"mean over seeds {cohort}".strip(), title_justify="left")
        for metric, rows in table.groupby("metric", sort=False):
            by_arm = {row["arm"]: f"{row['value']:.3f}" for row in rows.to_dict("records")}
            values.add_row(str(metric), *(by_arm.get(arm, "-") for arm in result.arms))
        console.print(values)
    if not len(result.differences):
        console.print("the runs differ in nothing but seeds, folds and data: no differences")
    else:
        console.print("Paired differences over seeds and items; nothing is claimed unless the interval excludes zero.")
        contrast = ["cohort", "factor", "level", "against"]
        for (of_cohort, factor, level, against), rows in result.differences.groupby(contrast, sort=False):
            of = f"{of_cohort}, {factor}".removeprefix(", ")
            heading = f"\n{of}: {letters.get(str(level), level)} against {letters.get(str(against), against)}"
            console.print(heading, markup=False, style="bold", soft_wrap=True)
            console.print(_block(rows.to_dict("records")))
    for note in result.notes:
        console.print(note, markup=False, soft_wrap=True)


def _block(rows: list[dict[Any, Any]]) -> Table:
    table = Table("figure", "difference", "95 % interval", "detectable", "verdict", box=None, padding=(0, 1, 0, 0))
    colours = {"better": "bold green", "worse": "bold red", "undecided": "dim"}
    for row in rows:
        known = not math.isnan(row["low"])
        interval = f"{row['low']:+.3f} to {row['high']:+.3f}" if known else "-"
        detectable = f"{row['smallest_detectable']:.3f}" if known else "-"
        verdict = f"[{colours[row['verdict']]}]{row['verdict']}[/]"
        table.add_row(row["metric"], f"{row['difference']:+.3f}", interval, detectable, verdict)
    return table


def _letters() -> Iterator[str]:
    """A, B, ... Z, A1, B1, ..."""
    return (f"{letter}{turn or ''}" for turn in count() for letter in ascii_uppercase)
