"""A picture of class probabilities over a slide: what is where, how sure, and how large."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from core.files import atomic_write
from core.types import Resolution

# Okabe & Ito 2008, distinguishable without red or green vision, without the black that a dark slide swallows
PALETTE = ((213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (240, 228, 66))
MAX_PANELS = 8  # classes shown, those with the largest share first
PANEL_INCHES, WIDEST = 4.0, 3
UNIT_NAMES = {"um": "µm", "mm": "mm", "m": "m"}
LARGER = {"um": ("mm", 1000.0), "mm": ("cm", 10.0), "m": ("km", 1000.0)}


def class_colours(count: int) -> list[tuple[int, int, int]]:
    """A colour for each class, RGB 0 to 255: the palette, then darker rounds of it."""
    rounds = [0.6 ** (index // len(PALETTE)) for index in range(count)]
    return [
        (round(r * shade), round(g * shade), round(b * shade))
        for (r, g, b), shade in zip((PALETTE[index % len(PALETTE)] for index in range(count)), rounds, strict=True)
    ]


def scale_bar(width: float, unit: str) -> tuple[float, str]:
    """Length (in ``unit``) and label of a bar of at most a quarter of ``width``: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(width / 4))
    length = next(step * power for step in (5, 2, 1) if step * power <= width / 4)
    larger, factor = LARGER[unit]
    if length >= factor:
        return length, f"{length / factor:g} {larger}"
    return length, f"{length:g} {UNIT_NAMES[unit]}"


def write_overlay(
    path: Path,
    thumbnail: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    resolution: Resolution,
    size: tuple[int, int],
    title: str,
) -> None:
    """Draws the most probable class over the slide, and one probability map a class beside it.

    Args:
        path: PNG to write.
        thumbnail: uint8 [h, w, 3] of the whole slide.
        probabilities: [h', w', C] of the whole slide, NaN where there is no tile.
        names: of the classes.
        resolution: of a level-0 pixel.
        size: (width, height) of level 0.
        title: above the picture.

    Raises:
        UserError: the file cannot be written.
    """
    there = ~np.isnan(probabilities[..., 0])
    winner = np.where(there, np.nan_to_num(probabilities).argmax(-1), -1)
    shares = np.array([(winner == label).sum() for label in range(len(names))]) / max(there.sum(), 1)
    ranked = np.argsort(-shares, kind="stable")
    # of many classes only those that win somewhere are worth a panel
    shown = ranked if len(names) <= MAX_PANELS else ranked[shares[ranked] > 0][:MAX_PANELS]
    panels = 1 + len(shown)
    columns = 2 if panels == 4 else min(panels, WIDEST)
    rows = math.ceil(panels / columns)
    height = PANEL_INCHES * min(max(size[1] / size[0], 0.4), 2.5)
    figure = Figure((PANEL_INCHES * columns + 1.0, (height + 0.3) * rows + 0.9), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    colours = class_colours(len(names))
    frame = (0, size[0], size[1], 0)  # every layer in level-0 pixels
    axes[0].imshow(thumbnail, extent=frame)
    axes[0].imshow(class_layer(winner, probabilities, colours), extent=frame, interpolation="nearest")
    for axis, label in zip(axes[1:panels], shown, strict=True):
        axis.imshow(thumbnail, extent=frame)
        board = probabilities[..., label]
        axis.imshow(board, extent=frame, vmin=0, vmax=1, cmap="viridis", alpha=0.65, interpolation="nearest")
        axis.set_title(short(names[label]), fontsize=9)
    axes[0].set_title("most probable", fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    for axis in axes[:panels]:
        axis.set_xlim(0, size[0])
        axis.set_ylim(size[1], 0)
        draw_scale(axis, size, resolution)
    figure.colorbar(
        ScalarMappable(Normalize(0, 1), "viridis"), ax=list(axes), label="probability", shrink=0.6, pad=0.02
    )
    handles = [
        Patch(
            color="#{:02x}{:02x}{:02x}".format(*colours[label]),
            label=f"{short(names[label])} ({shares[label]:.0%} of tiles' area)",
        )
        for label in shown
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, 3), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def class_layer(winner: np.ndarray, probabilities: np.ndarray, colours: Sequence[Sequence[int]]) -> np.ndarray:
    """Colour says which class, opacity how sure: from faint at chance to strong at certainty.

    Args:
        winner: [h, w] class, -1 where there is no tile.
        probabilities: [h, w, C].
        colours: [C] RGB 0 to 255.

    Returns:
        [h, w, 4] RGBA 0 to 1.
    """
    chance = 1 / probabilities.shape[-1]
    sure = np.clip((np.nan_to_num(probabilities).max(-1) - chance) / (1 - chance), 0, 1)
    layer = np.zeros((*winner.shape, 4), np.float32)
    layer[..., :3] = np.array(colours, np.float32)[np.maximum(winner, 0)] / 255
    layer[..., 3] = np.where(winner >= 0, 0.25 + 0.5 * sure, 0)
    return layer


def draw_scale(axis: Axes, size: tuple[int, int], resolution: Resolution) -> None:
    """A bar of known length in the lower left corner of a picture in level-0 pixels."""
    length, label = scale_bar(size[0] * resolution.x, resolution.unit)
    pixels = length / resolution.x
    x, y = size[0] * 0.04, size[1] * 0.96
    thick = size[1] * 0.012
    axis.add_patch(Rectangle((x, y - thick), pixels, thick, facecolor="black", edgecolor="white", linewidth=0.5))
    axis.text(
        x + pixels / 2, y - 1.6 * thick, label, ha="center", va="bottom", fontsize=7, color="black",
        bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def short(name: str) -> str:
    """A name that fits above a panel."""
    return name if len(name) <= 36 else name[:35] + "…"
