"""Figures of a run: each is drawn once and kept as PDF with the CSV it was drawn from, and as SVG for the page."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.files import atomic_write
from core.types import Figure

INK, MUTED, LINE, ACCENT, WARM = "#1d2330", "#667085", "#d9dde5", "#4a3f9f", "#c2620f"
_CONTROL_STYLE: dict[Any, Any] = {"chance": (MUTED, ":"), "majority": (MUTED, "--"), "resnet18": (WARM, "-")}
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#eceef2",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "svg.fonttype": "none",  # text stays text: selectable, in the page's font
    "pdf.fonttype": 3,  # 42 subsets whole fonts, which takes seconds a report
    "figure.dpi": 100,
}


def curves(metrics: pd.DataFrame) -> dict[str, tuple[Any, pd.DataFrame]]:
    """Small line charts of what was logged: losses, learning rate, logarithm of the logit scale, gradient norm."""
    numbers = [c for c in metrics.columns if c != "step" and pd.api.types.is_numeric_dtype(metrics[c])]
    scales = [c for c in numbers if "scale" in c or "bias" in c]
    rates = [c for c in numbers if c == "lr" or c.endswith("/lr")]
    norms = [c for c in numbers if c.endswith("grad_norm")]
    losses = [c for c in numbers if c not in (*scales, *rates, *norms)]
    charts = {}
    for name, title, columns in (
        ("loss", "Loss", losses),
        ("learning_rate", "Learning rate", rates),
        ("logit_scale", "Logit scale (logarithm)", scales),
        ("gradient_norm", "Norm of the gradient", norms),
    ):
        frame = metrics[["step", *columns]].dropna(how="all", subset=columns) if columns else metrics[[]]
        if columns and len(frame) > 1:
            charts[name] = (_lines(frame, columns, title), frame)
    return charts


def intervals(figures: Sequence[Figure]) -> tuple[Any, pd.DataFrame]:
    """Values with 95 % intervals, and the controls of each as ticks; drawn are those between 0 and 1, told are all."""
    rows = [f for f in figures if 0 <= f.value <= 1]
    with _style():
        plot, axes = _plot(6.6, 0.34 * len(rows) + 0.9)
        labelled = set()
        for place, figure in enumerate(rows):
            axes.plot(
                [figure.low, figure.high], [place, place], color=ACCENT, linewidth=5, alpha=0.35, solid_capstyle="round"
            )
            axes.plot(figure.value, place, "o", color=ACCENT, markersize=6)
            for name, value in figure.controls.items():
                color, dash = _CONTROL_STYLE.get(name, ("#98a2b3", "-"))
                label = None if name in labelled else name
                labelled.add(name)
                axes.plot([value, value], [place - 0.34, place + 0.34], dash, color=color, linewidth=1.6, label=label)
        axes.set_yticks(range(len(rows)), [f.name for f in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.grid(axis="y", visible=False)
        if labelled:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.04), ncols=5, frameon=False, fontsize=8)
    frame = pd.DataFrame(
        [
            {
                "figure": f.name,
                "value": f.value,
                "low": f.low,
                "high": f.high,
                "n": f.n,
                "units": f.units,
                "unit": f.unit,
            }
            | {f"control.{name}": value for name, value in f.controls.items()}
            for f in figures
        ]
    )
    return plot, frame


def confusion(table: npt.ArrayLike, names: Sequence[str]) -> tuple[Any, pd.DataFrame]:
    """Heat map of a confusion matrix: colour is the share of a true class, numbers are counts."""
    counts = np.asarray(table)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(0.42 * len(names) + 2.2, 4.2), 12)
    shown = [_short(str(name).replace("_", " "), 28) for name in names]
    with _style():
        plot, axes = _plot(side, side * 0.92)
        places = np.arange(len(names) + 1) - 0.5
        axes.pcolormesh(places, places, share, cmap=_violet(), vmin=0, vmax=1)  # vectors, unlike imshow
        axes.invert_yaxis()
        axes.set_xticks(range(len(names)), shown, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), shown)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if len(names) <= 24:
            for i, j in zip(*np.nonzero(counts), strict=True):
                color = "white" if share[i, j] > 0.5 else INK
                axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=color, fontsize=9)
    return plot, pd.DataFrame(counts, index=pd.Index(names, name="true"), columns=list(names)).reset_index()


def differences(rows: pd.DataFrame) -> tuple[Any, pd.DataFrame]:
    """Paired differences with their intervals around zero, in the order given; those that exclude it are in colour.

    Args:
        rows: columns cohort, metric, factor, level, against, difference, low, high, verdict.
    """
    with _style():
        plot, axes = _plot(8.6, 0.3 * len(rows) + 0.9)
        axes.axvline(0, color=INK, linewidth=1)
        for place, row in enumerate(rows.to_dict("records")):
            color = {"better": ACCENT, "worse": WARM}.get(str(row["verdict"]), "#98a2b3")
            bounds = [row["low"], row["high"]]
            axes.plot(bounds, [place, place], color=color, linewidth=4, alpha=0.4, solid_capstyle="round")
            axes.plot(row["difference"], place, "o", color=color, markersize=5)
        names = []
        for row in rows.to_dict("records"):
            levels = f"{_key(row['factor'])}{_short(row['level'])} − {_short(row['against'])}"
            cohort = f"{row['cohort']}, " if row["cohort"] else ""
            names.append(f"{cohort}{levels}:  {str(row['metric']).replace('_', ' ')}")
        axes.set_yticks(range(len(rows)), names, fontsize=8)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("difference")
    return plot, rows


def _key(factor: Any) -> str:
    """Levels of a single key say little without it; those of a whole subtree speak for themselves."""
    return f"{str(factor).rpartition('.')[2]} " if "." in str(factor) else ""


def _short(label: Any, length: int = 26) -> str:
    text = str(label)
    return text if len(text) <= length else text[: length - 1] + "…"


def save(plot: Any, frame: pd.DataFrame, folder: Path, name: str) -> str:
    """Writes ``figures/name.pdf`` and ``.csv`` and returns the figure as SVG markup for a page."""
    import matplotlib as mpl

    stamp = {"CreationDate": None}  # equal runs give equal files
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):  # ids in one page must not collide
        plot.draw_without_rendering()
        plot.set_layout_engine("none")  # the layout is found once and kept for both files
        with atomic_write(folder / "figures" / f"{name}.pdf") as path:
            plot.savefig(path, metadata=stamp)
        buffer = io.StringIO()
        plot.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    with atomic_write(folder / "figures" / f"{name}.csv") as path:
        frame.to_csv(path, index=False)
    markup = buffer.getvalue()
    return markup[markup.index("<svg") :]


def strip(value: float, low: float, high: float, controls: Mapping[str, float]) -> str:
    """A line of a table: the interval on a scale from 0 to 1 with its controls as ticks, as SVG that stretches."""
    if not 0 <= value <= 1:
        return ""
    parts = [f'<line x1="0" x2="100%" y1="50%" y2="50%" stroke="{LINE}"/>']
    if not math.isnan(low):
        width = max(100 * (high - low), 0.5)
        parts.append(
            f'<rect x="{100 * low:.2f}%" width="{width:.2f}%" y="7" height="8" rx="4" fill="{ACCENT}" opacity="0.3"/>'
        )
    for name, control in controls.items():
        if 0 <= control <= 1:
            color, dash = _CONTROL_STYLE.get(name, ("#98a2b3", "-"))
            dashes = {"-": "", "--": ' stroke-dasharray="4 2"', ":": ' stroke-dasharray="1.5 1.5"'}[dash]
            x = f"{100 * control:.2f}%"
            parts.append(
                f'<line x1="{x}" x2="{x}" y1="2" y2="20" stroke="{color}" stroke-width="2"{dashes}>'
                f"<title>{name} {control:.3f}</title></line>"
            )
    parts.append(f'<circle cx="{100 * value:.2f}%" cy="11" r="4.5" fill="{ACCENT}"/>')
    return f'<svg class="strip" height="22" role="img" aria-label="{value:.3f}">{"".join(parts)}</svg>'


def _lines(frame: pd.DataFrame, columns: Sequence[str], title: str) -> Any:
    palette = (ACCENT, WARM, "#2b8a7e", "#98a2b3", "#b4417f", "#5b7bd5")
    with _style():
        plot, axes = _plot(3.9, 2.5)
        for index, column in enumerate(columns):
            mine = frame[["step", column]].dropna()
            axes.plot(mine["step"], mine[column], color=palette[index % len(palette)], linewidth=1.8, label=column)
        axes.set_title(title)
        axes.set_xlabel("optimiser step")
        if len(columns) > 1:
            axes.legend(frameon=False, fontsize=8)
        axes.margins(x=0.01)
    return plot


def _violet() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("violet", ["#f7f7fa", "#cfc9ec", "#8a7fd0", ACCENT, "#2d2570"])


def _style() -> Any:
    """The house look for one figure; the user's matplotlib settings come back afterwards. No backend is chosen."""
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def _plot(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure as Plot

    plot = Plot(figsize=(width, height), layout="constrained")
    return plot, plot.subplots()
