"""A comparison on disk: ``compare.csv``, ``compare.html`` and ``compare.tex``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from core.evaluation.compare import Comparison
from core.files import atomic_write
from core.report import figures, page
from core.report.wording import of_all


def write_comparison(folder: str | Path, comparison: Comparison) -> Path:
    """Writes the three files and ``figures/differences.pdf`` and returns the path of the page.

    ``compare.csv`` holds values and differences in one table, told apart by its first column.
    """
    folder = Path(folder)
    values, differences = comparison.values, comparison.differences
    flat = values.assign(controls=[page.controls(row) for row in values["controls"]])
    table = pd.concat([flat.assign(kind="value"), differences.assign(kind="difference")], ignore_index=True)
    table.insert(0, "kind", table.pop("kind"))
    with atomic_write(folder / "compare.csv") as path:
        table.to_csv(path, index=False)
    with atomic_write(folder / "compare.tex") as path:
        path.write_text(latex(comparison), encoding="utf-8")
    plotted = differences
    if len(differences):  # the page has them all; the picture shows the factors (arms when there is one factor alone)
        of_factors = differences["factor"] != "arm"
        plotted = differences[of_factors & differences["metric"].str.endswith(("accuracy", "recall@5"))]
    figure = figures.save(*figures.differences(plotted), folder, "differences") if len(plotted) else ""
    decided = differences[differences["verdict"] != "undecided"] if len(differences) else differences
    target = folder / "compare.html"
    context = {
        "arms": comparison.arms,
        "notes": list(
            dict.fromkeys(part.strip() for n in values["note"] for part in of_all(n).split(",") if part.strip())
        ),
        "subtitle": _subtitle(comparison),
        "summary": f"{len(decided)} of {len(differences)} differences have an interval that excludes zero."
        if len(differences)
        else "The runs differ in nothing but seeds and folds: there is nothing to compare, only values.",
        "count": len(differences),
        "expected": max(round(0.05 * len(differences)), 1) if len(differences) else 0,
        "figure": figure,
        "unit": values["unit"].iloc[0],
        "sections": _sections(differences),
        "values": _values(values),
        "remarks": comparison.notes,
    }
    with atomic_write(target) as path:
        path.write_text(page.render("compare.html.j2", **context), encoding="utf-8")
    return target


def latex(comparison: Comparison) -> str:
    """Values and differences as two ``booktabs`` tables; a decided difference is bold."""
    lines = ["% needs \\usepackage{booktabs}", "\\begin{tabular}{llrl}", "\\toprule"]
    lines += ["figure & arm & mean & 95\\,\\% interval \\\\", "\\midrule"]
    for row in comparison.values.to_dict("records"):
        interval = _interval(row["low"], row["high"])
        lines.append(f"{_escape(_figure(row))} & {_escape(row['arm'])} & {row['value']:.3f} & {interval} \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", ""]
    if len(comparison.differences):
        lines += ["\\begin{tabular}{lllrlr}", "\\toprule"]
        lines += ["figure & level & against & difference & 95\\,\\% interval & detectable \\\\", "\\midrule"]
        for row in comparison.differences.to_dict("records"):
            value = f"{row['difference']:+.3f}"
            shown = value if row["verdict"] == "undecided" else f"\\textbf{{{value}}}"
            cells = [_escape(_figure(row)), _escape(row["level"]), _escape(row["against"]), shown]
            cells += [_interval(row["low"], row["high"]), _number(row["smallest_detectable"])]
            lines.append(" & ".join(cells) + " \\\\")
        lines += ["\\bottomrule", "\\end{tabular}", ""]
    return "\n".join(lines)


def _sections(differences: pd.DataFrame) -> list[dict[str, Any]]:
    if not len(differences):
        return []
    sections = []
    contrast = ["cohort", "factor", "level", "against"]
    for (cohort, factor, level, against), rows in differences.groupby(contrast, sort=False):
        pairs = int(rows["averaged_over"].iloc[0])
        sections.append(
            {
                "title": f"{cohort}, {factor}: {level} against {against}".removeprefix(", "),
                "remark": f"averaged over {pairs} pairs of arms that differ in nothing else" if pairs > 1 else "",
                "rows": [
                    {
                        "name": row["metric"],
                        "difference": f"{row['difference']:+.3f}",
                        "range": _interval(row["low"], row["high"]),
                        "verdict": row["verdict"],
                        "detectable": _number(row["smallest_detectable"]),
                        "seeds": row["seeds"],
                        "units": row["units"],
                    }
                    for row in rows.to_dict("records")
                ],
            }
        )
    return sections


def _values(values: pd.DataFrame) -> list[dict[str, Any]]:
    tables = []
    for (cohort, metric), rows in values.groupby(["cohort", "metric"], sort=False):
        bounded = not str(metric).endswith(("distance_of_errors", "rank"))
        tables.append(
            {
                "title": f"{cohort}, {metric}".removeprefix(", "),
                "rows": [_value(row, bounded) for row in rows.to_dict("records")],
            }
        )
    return tables


def _value(row: Mapping[Any, Any], bounded: bool) -> dict[str, Any]:
    return {
        "arm": row["arm"],
        "value": _number(row["value"]),
        "range": _interval(row["low"], row["high"]),
        "strip": figures.strip(row["value"], row["low"], row["high"], row["controls"]) if bounded else "",
        "spread": f"{row['seeds']}, {row['smallest']:.3f} to {row['largest']:.3f}",
        "controls": page.controls(row["controls"]),
    }


def _subtitle(comparison: Comparison) -> str:
    factors = ", ".join(comparison.factors) or "nothing but seeds"
    return f"factors: {factors} · {int(comparison.values['seeds'].max())} seeds"


def _figure(row: Mapping[Any, Any]) -> str:
    return f"{row['cohort']}, {row['metric']}" if row["cohort"] else str(row["metric"])


def _interval(low: float, high: float) -> str:
    return "no interval" if math.isnan(low) else f"{low:.3f} to {high:.3f}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _escape(text: str) -> str:
    for mark in "&%$#_{}":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("~", "\\textasciitilde{}").replace("^", "\\textasciicircum{}")
