"""A small cohort of slides of which only the features are there: what training over bags looks at."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from core.mil.features import FeatureAttributes, write_features

WIDTH, TILE_PX, MPP = 8, 64, 0.5


def write_slide_features(
    folder: Path, name: str, features: np.ndarray, stored: str | None = None, encoder: str = "toy@1", note: str = ""
) -> Path:
    """A feature file as ``embed`` writes it: tiles in a row, ``features`` [T, D] float16 (T may be 0, with a note)."""
    attributes = FeatureAttributes(
        name, encoder, "0" * 64, "pooled", "float32", MPP, MPP, "test", "um", 9000, 9000, TILE_PX, 1.0, 0.0, 0.1,
        len(features), 1, note=note,
    )  # fmt: skip
    side = round(TILE_PX / MPP)
    corners = side * np.stack([np.arange(len(features)), np.zeros(len(features), int)], axis=1)
    path = folder / "features" / f"{stored or name}.h5"
    write_features(path, corners, features, attributes)
    return path


def write_cohort(folder: Path, patients: int = 48, tiles: tuple[int, int] = (20, 60)) -> Path:
    """``slides.csv`` and ``features/``: patients with a slide or two; in tumours three tiles are of another kind.

    The column ``truth`` names an outline around these three, level-0 pixels.
    """
    random = np.random.default_rng(0)
    lines = ["path,id,group,split,label,time,event,truth,mpp"]
    side = round(TILE_PX / MPP)
    ring = [[0, 0], [3 * side, 0], [3 * side, side], [0, side], [0, 0]]
    outline = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    for name, outlines in {"normal": [], "tumour": [outline]}.items():
        (folder / f"{name}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": outlines}))
    for patient in range(patients):
        tumour, split = patient % 2, ("train", "train", "val", "test")[patient // 2 % 4]
        kind = ("normal", "tumour")[tumour]
        time, event = (30 if tumour else 60) + int(random.integers(20)), int(random.random() < 0.8)
        for slide in range(1 + patient % 2):
            name = f"p{patient}s{slide}"
            (folder / f"{name}.svs").write_text(name)  # training looks at features alone
            features = random.normal(size=(int(random.integers(*tiles)), WIDTH))
            features[: 3 * tumour, 0] += 6
            stored = f"{name}.svs" if slide else name  # embed names a file after the path, others after the id
            write_slide_features(folder, name, features.astype(np.float16), stored)
            lines.append(f"{name}.svs,{name},p{patient},{split},{kind},{time},{event},{kind}.geojson,{MPP}")
    table = folder / "slides.csv"
    table.write_text("\n".join(lines) + "\n")
    return table
