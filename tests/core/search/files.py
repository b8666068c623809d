"""Feature files of slides that are not there: what an index is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from core.mil.features import FeatureAttributes, write_features

SAID = FeatureAttributes(
    name="", encoder="small/projected@0a1b2c", weights_sha256="ab" * 32, space="projected", precision="float32",
    resolution_x=0.5, resolution_y=0.25, resolution_source="test", unit="um", width=20_000, height=40_000, tile_px=64,
    tile_resolution=1.0, overlap=0.0, min_coverage=0.25, grid_tiles=10_000, slide_bytes=1,
)  # fmt: skip


def corners(count: int) -> np.ndarray:
    """int64 [count, 2]: 50 tiles a row."""
    return np.stack([np.arange(count) % 50 * 128, np.arange(count) // 50 * 256], 1).astype(np.int64)


def write(folder: Path, name: str, vectors: np.ndarray, **said: Any) -> Path:
    """Writes ``<name>.h5``: a slide ``<name>.svs`` with a tile a vector [T, D]."""
    path = folder / f"{name}.h5"
    write_features(path, corners(len(vectors)), vectors.astype(np.float16), replace(SAID, name=f"{name}.svs", **said))
    return path
