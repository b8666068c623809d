"""What the tiles of a slide brought to a prediction: a map, areas for the viewer, a sheet of tiles, a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from core.files import atomic_write
from core.mil.bags import Bag
from core.mil.tasks.task import Explained
from core.raster.patch import require_resolution
from core.raster.reader import Raster, ReadError
from core.raster.regions import Area, AreaWriter, merge_windows
from core.raster.stitch import stitch
from core.run.overlay import MAX_PANELS, PANEL_INCHES, WIDEST, class_colours, draw_scale, short
from core.run.predict import MAX_AREAS, OVERVIEW_PX, write_tiles
from core.types import Resolution, UserError, Window

SIGNED = "RdBu_r"  # white at 0: red speaks for, blue against
CLIPPED = 99.0  # percentile of what is shown: one tile in a thousand must not leave the others white
HALF = 0.5  # share of all that was said for and against a class that the tiles of areas make up
SHEET = 8  # tiles of a row
THUMBNAIL_PX = 160


@dataclass(frozen=True)
class Placed:
    """The tiles of one slide on it."""

    windows: list[Window]  # [T] level-0 pixels
    explained: Explained  # of these T tiles; weights are shares of the whole bag, which may hold further slides
    names: tuple[str, ...]  # [M] of the columns of contributions

    @property
    def mirrored(self) -> bool:
        """Whether what speaks for one of two classes is what speaks against the other."""
        values = self.explained.contributions
        return len(self.names) == 2 and bool(np.allclose(values[:, 0], -values[:, 1], rtol=1e-3, atol=1e-6))

    @property
    def shown(self) -> list[int]:
        """Columns worth a panel."""
        return [1] if self.mirrored else list(range(len(self.names)))[:MAX_PANELS]


def place(bag: Bag, raster: Raster) -> list[Window]:
    """Where the tiles of a bag lie on their slide, [T].

    Raises:
        UserError: the slide has no resolution or one in another unit, or tiles lie outside of it: the features are of
            another slide, or one of both is at a wrong scale.
    """
    resolution = require_resolution(raster)
    if resolution.unit != bag.unit:
        raise UserError(f"the features are placed in {bag.unit}, the slide in {resolution.unit}")
    scale = np.array([resolution.x, resolution.y])
    corners = (bag.coordinates.astype(np.float64) / scale).round(2)  # float32 micrometres are not whole pixels
    width, height = (bag.tile_size / scale).round(2).tolist()
    outside = (corners < -1).any(axis=1) | (corners >= np.array(raster.size)).any(axis=1)
    if outside.any():
        raise UserError(
            f"{int(outside.sum())} of {len(corners)} tiles lie outside of the slide",
            todo="check that the features are of this slide, and its resolution",
        )
    return [Window(x, y, width, height) for x, y in corners.tolist()]


def write_pictures(folder: Path, name: str, raster: Raster, placed: Placed, writer: AreaWriter, title: str) -> None:
    """Writes ``maps/<name>.png`` with areas beside it, ``sheets/<name>.png`` and ``tiles/<name>.parquet``.

    Raises:
        UserError: the slide cannot be read, or a file not be written.
    """
    thumbnail = raster.thumbnail(OVERVIEW_PX).values
    figure = contribution_figure(thumbnail, placed, require_resolution(raster), raster.size, title)
    _save(figure, folder / "maps" / f"{name}.png")
    areas, names = contribution_areas(placed, raster.size)
    writer.write(folder / "maps" / f"{name}{writer.suffix}", raster, areas, names, class_colours(len(names)),
                 "Mean contribution")  # fmt: skip
    _save(tile_sheet(raster, placed, title), folder / "sheets" / f"{name}.png")
    table = pd.DataFrame([(w.x, w.y, w.width, w.height) for w in placed.windows], columns=["x", "y", "w", "h"])
    columns = {f"contribution.{text}": placed.explained.contributions[:, k] for k, text in enumerate(placed.names)}
    write_tiles(folder / "tiles" / f"{name}.parquet", table.assign(**columns, weight=placed.explained.weights))


def contribution_figure(
    thumbnail: np.ndarray, placed: Placed, resolution: Resolution, size: tuple[int, int], title: str
) -> Figure:
    """The slide, a signed map of each score around zero, and the weights of the tiles.

    Args:
        thumbnail: uint8 [h, w, 3] of the whole slide.
        placed: its tiles.
        resolution: of a level-0 pixel.
        size: (width, height) of level 0.
        title: above the picture.
    """
    weights, contributions = placed.explained.weights, placed.explained.contributions
    relative = weights / weights.mean() if weights.any() else weights
    values = np.column_stack([contributions, relative])
    board = stitch(placed.windows, values, size, (thumbnail.shape[1], thumbnail.shape[0]))
    limit = _limit(contributions[:, placed.shown])
    panels = 2 + len(placed.shown)
    columns = min(panels, WIDEST)
    rows = -(-panels // columns)
    height = PANEL_INCHES * min(max(size[1] / size[0], 0.4), 2.5)
    figure = Figure((PANEL_INCHES * columns + 1.6, (height + 0.3) * rows + 0.8), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    frame = (0, size[0], size[1], 0)  # every layer in level-0 pixels
    for axis in axes:
        axis.set_axis_off()
    for axis in axes[:panels]:
        axis.imshow(thumbnail, extent=frame)
    axes[0].set_title("slide", fontsize=9)
    signed, shares = Normalize(-limit, limit), Normalize(0, float(relative.max()) or 1.0)
    for axis, column in zip(axes[1:], placed.shown, strict=False):
        layer = board[..., column]
        # what says little stays the slide
        strength = np.where(np.isnan(layer), 0, 0.2 + 0.6 * np.minimum(np.abs(np.nan_to_num(layer)) / limit, 1))
        axis.imshow(np.nan_to_num(layer), extent=frame, norm=signed, cmap=SIGNED, alpha=strength,
                    interpolation="nearest")  # fmt: skip
        axis.set_title(f"contribution to {short(placed.names[column])}", fontsize=9)
    last = axes[panels - 1]
    last.imshow(board[..., -1], extent=frame, norm=shares, cmap="viridis", alpha=0.65, interpolation="nearest")
    last.set_title("weight of the tile", fontsize=9)
    for axis in axes[:panels]:
        axis.set_xlim(0, size[0])
        axis.set_ylim(size[1], 0)
        draw_scale(axis, size, resolution)
    clipped = np.abs(contributions[:, placed.shown]).max() > limit
    figure.colorbar(ScalarMappable(shares, "viridis"), ax=list(axes), shrink=0.6, pad=0.01, fraction=0.03,
                    label="weight over the slide's mean")  # fmt: skip
    figure.colorbar(ScalarMappable(signed, SIGNED), ax=list(axes), shrink=0.6, pad=0.01, fraction=0.03,
                    extend="both" if clipped else "neither", label="contribution: red for, blue against")  # fmt: skip
    figure.suptitle(title, fontsize=10)
    return figure


def contribution_areas(placed: Placed, size: tuple[int, int]) -> tuple[list[Area], tuple[str, ...]]:
    """Areas of the fewest tiles that make up half of all that was said for and against a class, where they speak for
    it, and the names of their labels.

    A single score (risk, grade, estimate) has two labels, ``higher`` and ``lower``.
    """
    columns, names = placed.explained.contributions, placed.names
    if len(names) == 1:
        columns, names = np.column_stack([columns, -columns]), (f"higher {names[0]}", f"lower {names[0]}")
    areas = []
    for label in range(len(names)):
        chosen = np.flatnonzero(weightiest(columns[:, label]))
        windows = [placed.windows[tile] for tile in chosen]
        found, dropped = merge_windows(windows, columns[chosen, label], label, size, MAX_AREAS)
        areas += found
        if dropped:
            print(f"the {MAX_AREAS} largest areas of '{names[label]}' are written, {dropped} smaller are not")
    return areas, names


def weightiest(values: np.ndarray, share: float = HALF) -> np.ndarray:
    """Which values [T] are positive and among the fewest that make up a share of the sum of magnitudes, [T] bool."""
    loud = np.abs(values).astype(np.float64)
    order = np.argsort(-loud, kind="stable")
    before = np.concatenate([[0], loud[order].cumsum()[:-1]])
    chosen: np.ndarray = np.zeros(len(values), bool)
    chosen[order] = before < share * loud.sum()
    return chosen & (values > 0)


def tile_sheet(raster: Raster, placed: Placed, title: str) -> Figure:
    """The tiles of highest and of lowest contribution to each score, with the numbers; a broken tile is left grey."""
    count = max(1, min(SHEET, len(placed.windows) // 2))
    rows: list[tuple[str, int, Sequence[int]]] = []
    for column in placed.shown:
        order = np.argsort(-placed.explained.contributions[:, column], kind="stable").tolist()
        rows.append((f"highest contributions to {short(placed.names[column])}", column, order[:count]))
        if len(order) > 1:
            rows.append((f"lowest contributions to {short(placed.names[column])}", column, order[::-1][:count]))
    figure = Figure((1.4 * SHEET, 1.75 * len(rows) + 0.4), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(rows), 1, squeeze=False)
    for part, (said, column, tiles) in zip(parts[:, 0], rows, strict=True):
        part.suptitle(said, fontsize=9, x=0.01, ha="left")
        axes = part.subplots(1, SHEET, squeeze=False).ravel()
        for axis in axes:
            axis.set_axis_off()
        for axis, tile in zip(axes, tiles, strict=False):
            axis.imshow(_tile(raster, placed.windows[tile]))
            axis.set_title(f"{placed.explained.contributions[tile, column]:+.3g}", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def _tile(raster: Raster, window: Window) -> np.ndarray:
    size = (THUMBNAIL_PX, max(1, round(THUMBNAIL_PX * window.height / window.width)))
    try:
        return raster.read(window, size).values
    except ReadError:
        return np.full((size[1], size[0], 3), 200, np.uint8)


def _limit(values: np.ndarray) -> float:
    """Half the range of the colours; of all tiles with a say, so that a few that say much are seen beside many."""
    loud = np.abs(values[np.abs(values) > 0])
    return float(np.percentile(loud, CLIPPED)) if len(loud) else 1.0


def _save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
