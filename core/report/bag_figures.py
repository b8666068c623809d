"""Figures of bags: ROC curves and Kaplan-Meier curves, each with the table it was drawn from.

``core.report.figures.save`` writes them as PDF and CSV and returns SVG for the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.evaluation.survival import LogRank, kaplan_meier, log_rank
from core.evaluation.tables import Results
from core.report.figures import ACCENT, INK, MUTED, WARM, _plot, _style
from core.report.wording import is_control, of_all, units
from core.types import Figure

_COLOURS = (ACCENT, WARM, "#2b8a7e", "#b4417f", "#5b7bd5", "#98a2b3")
_TICKS = 5  # times at which a Kaplan-Meier figure counts who is at risk


def curves_of_bags(results: Results) -> dict[str, tuple[Any, pd.DataFrame]]:
    """What a run over bags has curves of, by name: ``roc`` of its classes, ``survival`` of its risk groups.

    Where units have several bags there is one of the bags and one of the units: ``roc_patient``.
    """
    curves: dict[str, tuple[Any, pd.DataFrame]] = {}
    for name, detail in results.details.items():
        items = results.items_of(name)
        shown = [figure for figure in results.figures if figure.name.startswith(f"{name}/")]
        if is_control(name) or not shown:
            continue
        note = "; ".join(filter(None, (units(shown[0]), of_all(shown[0].note))))
        if "class_names" in detail:
            scores = np.stack([np.asarray(row, dtype=np.float64) for row in items["probabilities"]])
            names = detail["class_names"]
            codes = range(len(names))[: len(_COLOURS)] if len(names) != 2 else (1,)
            told = {code: str(names[code]) for code in codes}
            kind, drawn = "roc", roc(scores, items["target"].astype(int), told, note, _area(name, shown))
        elif "risk_group" in items and items["risk_group"].notna().any():
            time, event, group = items["time"], items["event"].astype(bool), items["risk_group"] + " risk"
            test = log_rank(time, event, group) if group.nunique() > 1 else None
            kind, drawn = "survival", survival_curves(time, event, group, "time", test, note)
        else:
            continue
        curves[f"{kind}_{name}" if kind in curves else kind] = drawn
    return curves


def _area(name: str, shown: Sequence[Figure]) -> str:
    """The area under the only curve with its interval; nothing where there is none."""
    area = next((figure for figure in shown if figure.name == f"{name}/macro_auroc"), None)
    if area is None:
        return ""
    interval = "" if np.isnan(area.low) else f" ({area.low:.3f} to {area.high:.3f})"
    return f"area {area.value:.3f}{interval}"


def roc(
    scores: npt.ArrayLike, targets: npt.ArrayLike, names: Mapping[int, str], note: str = "", area: str = ""
) -> tuple[Any, pd.DataFrame]:
    """ROC curves, one class against the rest.

    Args:
        scores: [N, C], any monotone score of each class.
        targets: [N] int, the true class.
        names: which classes to draw, by number (of two classes, the second says it all).
        note: shown above: unit, number, "synthetic".
        area: written beside the curve where there is one alone.

    Returns:
        The figure, and rows class, threshold (scores at or above it are called positive), false_positive_rate,
        true_positive_rate, n_positive, n_negative. A class without positives or negatives has no curve.
    """
    from sklearn.metrics import roc_curve

    table, truth = np.asarray(scores, dtype=np.float64), np.asarray(targets)
    frames = []
    with _style():
        plot, axes = _plot(4.4, 4.3)
        axes.plot([0, 1], [0, 1], ":", color=MUTED, linewidth=1.2, label="chance")
        for index, (code, name) in enumerate(names.items()):
            positive = truth == code
            if positive.all() or not positive.any():
                continue
            false, true, threshold = roc_curve(positive, table[:, code], drop_intermediate=False)
            label = ", ".join(filter(None, (name.replace("_", " "), area if len(names) == 1 else "")))
            axes.plot(false, true, color=_COLOURS[index % len(_COLOURS)], linewidth=1.8, label=label)
            frames.append(
                pd.DataFrame(
                    {
                        "class": name,
                        "threshold": threshold,
                        "false_positive_rate": false,
                        "true_positive_rate": true,
                        "n_positive": int(positive.sum()),
                        "n_negative": int((~positive).sum()),
                    }
                )
            )
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.01)
        axes.set_aspect("equal")
        axes.set_title(note)
        axes.legend(loc="lower right", frameon=False, fontsize=8)
    return plot, pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"class": []})


def survival_curves(
    time: npt.ArrayLike,
    event: npt.ArrayLike,
    group: npt.ArrayLike,
    unit: str = "time",
    test: LogRank | None = None,
    note: str = "",
) -> tuple[Any, pd.DataFrame]:
    """Kaplan-Meier curves of groups with 95 % bands, censoring ticks and the numbers at risk below.

    Args:
        time: [N]. event: [N] bool. group: [N] names.
        unit: name of the time axis, with its unit.
        test: shown in the title.
        note: shown in the title: unit, number, "synthetic".

    Returns:
        The figure, and the rows of :func:`core.evaluation.survival.kaplan_meier` with a column group.
    """
    times, happened = np.asarray(time, dtype=np.float64), np.asarray(event, dtype=bool)
    groups = np.asarray(group).astype(str)
    names, frames = np.unique(groups), []
    with _style():
        plot, axes = _plot(5.4, 3.6 + 0.22 * len(names))
        for index, name in enumerate(names):
            mine = groups == name
            curve, colour = kaplan_meier(times[mine], happened[mine]), _COLOURS[index % len(_COLOURS)]
            axes.step(curve["time"], curve["survival"], where="post", color=colour, linewidth=1.8,
                      label=f"{name} (n = {int(mine.sum())}, {int(happened[mine].sum())} events)")  # fmt: skip
            axes.fill_between(curve["time"], curve["low"], curve["high"], step="post", color=colour, alpha=0.15, lw=0)
            censored = curve[curve["censored"] > 0]
            axes.plot(censored["time"], censored["survival"], "|", color=colour, markersize=6)
            frames.append(curve.assign(group=name))
        ticks = np.linspace(0, times.max(), _TICKS)
        axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        for index, name in enumerate(names):
            colour, height = _COLOURS[index % len(_COLOURS)], -0.24 - 0.075 * index
            mine = times[groups == name]
            for tick in ticks:
                axes.text(tick, height, str(int((mine >= tick).sum())), transform=axes.get_xaxis_transform(),
                          color=colour, fontsize=8, ha="center", va="top")  # fmt: skip
        axes.text(0, -0.17, "at risk", transform=axes.get_xaxis_transform(), color=INK, fontsize=8, va="top")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel(unit, loc="right")
        axes.set_ylabel("survival")
        said = "" if test is None else f"log-rank p = {test.p:.2g}"
        axes.set_title("; ".join(filter(None, (note, said))))
        axes.legend(loc="lower left", frameon=False, fontsize=8)
    return plot, pd.concat(frames, ignore_index=True)
