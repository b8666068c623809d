"""Whether a bag model looks where the cause is: coverage of outlined regions by the tiles that contribute most."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
from shapely.geometry import shape

from core.data.manifest import Manifest
from core.evaluation.bag_controls import NAME, fit_classes
from core.evaluation.bag_subject import BagSubject
from core.evaluation.cohort import make_evaluation
from core.evaluation.metrics import FloatArray, Metric
from core.mil.bags import Bag, PackedBags
from core.types import Evaluation, UserError

INSIDE = 0.5  # share of a tile's area from which on it is one of the region


class RegionsOfBags:
    """Of as many tiles as lie in the region, those that contribute most: which share of them lies there.

    Over positive test bags of a task with two classes. A tile is one of the region when at least half of its area is.
    ``coverage`` is that share over the share of the region's tiles in the bag (the prevalence): 1 is chance. The
    contribution is that to the second class's score minus the first's; tiles that contribute the same count by
    their share. Beside it stand random scores (what is to be expected of them), tiles near the middle of their slide (a
    lesion cut for a slide often lies there), and the linear model on the mean of the instances, asked of every tile
    alone. Left out, and counted by reason, are bags whose outlines are missing or cannot be read, and those without a
    tile in the region.

    Args:
        truth: manifest column with a GeoJSON of polygons in level-0 pixels for each slide, relative to the manifest.
        column: label column of the task.
    """

    def __init__(self, truth: str = "truth", column: str = "label") -> None:
        self.truth, self.column = truth, column

    def __call__(self, subject: BagSubject, /) -> list[Evaluation]:
        data = subject.data
        if not len(subject.names) == subject.task.head.out_features == 2:
            return []
        labels = data.labels("test")[self.column]
        positive = [name for name, label in zip(data.ids("test"), labels, strict=True) if label == 1]
        units = dict(zip(data.ids("test"), data.units("test"), strict=True))
        linear = fit_classes(subject.means("train"), data.labels("train")[self.column], 2)
        rows: list[dict[str, Any]] = []
        left_out = Counter[str]()
        for name in positive:
            bag = data.bag(name)
            try:
                inside = self._inside(data.manifest, bag, data.slides(name))
            except UserError as error:  # the figures of a trained model are worth more than this one
                print(f"left out: coverage of the region of '{name}': {error.what} ({error.where})")
                left_out["no usable outlines"] += 1
                continue
            if not inside.any():
                left_out["no tile in the region"] += 1
                continue
            shares = subject.task.contributions(PackedBags.pack([bag])).astype(np.float64)
            scores = {
                "": shares[:, 1] - shares[:, 0],
                "centre": _middle(bag, data.slides(name)),
                NAME: linear(bag.features)[:, 1],  # a bag at a time: bags are large
            }
            share = float(inside.mean())
            recall = {who: recall_at_count(values, inside) for who, values in scores.items()}
            recall["random"] = share
            row: dict[str, Any] = {"id": name, "unit": units[name], "tiles": len(bag), "prevalence": share}
            for who, value in recall.items():
                row |= {f"recall{who and '.'}{who}": value, f"coverage{who and '.'}{who}": value / share}
            rows.append(row)
        if not rows:
            print(f"left out: coverage of regions: {dict(left_out) or 'there is no positive test bag'}")
            return []
        items = pd.DataFrame(rows)
        controls = {
            who: {"coverage": float(items[f"coverage.{who}"].median()), "recall": float(items[f"recall.{who}"].mean())}
            for who in ("random", "centre", NAME)
        }
        metrics = [Metric("region/coverage", "median", "coverage"), Metric("region/recall", "mean", "recall")]
        prevalence = {"mean": float(items["prevalence"].mean()), "most": float(items["prevalence"].max())}
        print(f"prevalence of the region: mean {prevalence['mean']:.3f}, most {prevalence['most']:.3f}")
        details = {"prevalence": prevalence, "left_out": dict(left_out)}
        return [make_evaluation("region", items, metrics, subject.cohort(), controls, details)]

    def _inside(self, manifest: Manifest, bag: Bag, slides: tuple[tuple[str, int], ...]) -> npt.NDArray[np.bool_]:
        """[T] which tiles of a bag lie in the outlines of their slides."""
        frame, where = manifest.frame.set_index("id"), str(manifest.path)
        if self.truth not in frame:
            raise UserError(f"the manifest has no column '{self.truth}'", where, "name that of the outlines")
        if manifest.unit != bag.unit:
            raise UserError(f"the manifest has no resolution in {bag.unit}, the unit of the features", where)
        parts, start = [], 0
        for name, tiles in slides:
            corners = bag.coordinates[start : start + tiles].astype(np.float64)
            start += tiles
            if pd.isna(frame[self.truth][name]) or pd.isna(frame["resolution"][name]):
                raise UserError(f"slide '{name}' has no outlines or no resolution", where)
            path, resolution = manifest.root / str(frame[self.truth][name]), float(frame["resolution"][name])
            # level-0 pixels to the unit of the bag
            region = shapely.transform(_outlined(path), lambda points, scale=resolution: points * scale)
            boxes = shapely.box(*corners.T, *(corners.T + bag.tile_size))
            share = shapely.area(shapely.intersection(boxes, region)) / bag.tile_size**2
            parts.append(share >= INSIDE)
        return np.concatenate(parts)


def recall_at_count(scores: npt.ArrayLike, inside: npt.NDArray[np.bool_]) -> float:
    """Share of the K inside tiles among the K with the highest scores; of equal scores, what is to be expected.

    Args:
        scores: [T]. inside: [T], at least one.
    """
    values, count = np.asarray(scores, dtype=np.float64), int(inside.sum())
    last = np.partition(values, len(values) - count)[len(values) - count]
    above, tied = values > last, values == last
    return float(inside[above].sum() + (count - above.sum()) * inside[tied].mean()) / count


def _middle(bag: Bag, slides: tuple[tuple[str, int], ...]) -> FloatArray:
    """[T] the nearer a tile is to the middle of its slide's tiles, the higher."""
    ends = np.cumsum([tiles for _, tiles in slides])[:-1]
    parts = np.split(bag.coordinates.astype(np.float64), ends)
    return np.concatenate([-np.linalg.norm(part - part.mean(axis=0), axis=1) for part in parts])


def _outlined(path: Path) -> shapely.Geometry:
    """What the outlines of a GeoJSON file enclose together, level-0 pixels.

    Raises:
        UserError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        features = content["features"] if isinstance(content, dict) else content
        # outlines may touch or cross themselves by a rounding
        return shapely.union_all([shapely.make_valid(shape(feature["geometry"])) for feature in features])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
        raise UserError(f"the outlines cannot be read: {error}", str(path), "give a GeoJSON of polygons") from error
