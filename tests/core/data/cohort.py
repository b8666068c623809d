"""Small cohorts of real picture files, and the smallest reader that keeps the contract."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from core.data.captions import CaptionChooser
from core.data.manifest import Manifest, ManifestOptions
from core.data.module import PairsDataModule
from core.data.samplers import GroupSampler
from core.data.targets import Relations
from core.data.tiles import TileSource
from core.raster.array import ArrayRaster
from core.raster.reader import ReadError
from core.types import SUPPLIED, Geometry, NoResolution, Resolution, Unit

DATA = Path(os.environ.get("TRIVIUM_DATA", Path(__file__).parents[4] / "shared" / "data")) / "pathology"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the real data at {DATA}")
CLASSES = ("disc", "square", "ring")


def decode(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise ReadError(f"cannot be decoded: {error}", str(path)) from error


class PictureReader:
    """Plain pictures; no scale unless it is supplied."""

    unit: Unit = "um"

    def open(self, path: str | Path, resolution: float | None = None) -> ArrayRaster:
        path = Path(path)
        try:
            with Image.open(path) as image:
                size = image.size
        except OSError as error:
            raise ReadError(f"is no picture: {error}", str(path)) from error
        scale = NoResolution("the scale is not known", "um")
        given = scale if resolution is None else Resolution(resolution, resolution, "um", SUPPLIED)
        return ArrayRaster(path, size, decode, given)


def write_cohort(folder: Path, count: int = 24, size: int = 16) -> Path:
    """``count`` noise pictures of three classes, two to a group, with captions; returns the manifest's path."""
    random = np.random.default_rng(0)
    rows = []
    for number in range(count):
        pixels = random.integers(0, 256, (size, size, 3), np.uint8)
        name = f"Größe ({number}), a.png"
        Image.fromarray(pixels).save(folder / name)
        label = CLASSES[number % 3]
        split = "train" if number < count * 2 // 3 else "val" if number < count * 5 // 6 else "test"
        row = {"path": name, "id": f"p{number}", "group": f"g{number // 2}", "label": label, "split": split}
        rows.append({**row, "caption.1": f"a {label}", "caption.2": f"picture {number} of a {label}"})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def tokenize(texts: list[str]) -> torch.Tensor:
    """Bytes, padded with 0: different texts have different tokens."""
    rows = [list(text.encode())[:48] for text in texts]
    return torch.tensor([row + [0] * (48 - len(row)) for row in rows], dtype=torch.int64)


def by_label(groups: np.ndarray) -> GroupSampler:
    return GroupSampler(groups, groups_per_batch=2, per_group=4, seed=5)


def make_module(path: Path, workers: int = 0, cache_gib: float = 1.0, **options: object) -> PairsDataModule:
    """The cohort as a data module: groups are classes, two captions a picture of which one or two are used."""
    manifest = Manifest.read(path, ManifestOptions())
    frame = manifest.frame
    tiles = TileSource(manifest, PictureReader(), Geometry(8, None), cache_gib=cache_gib)
    labels = np.unique(frame["label"].astype(str), return_inverse=True)[1].astype(np.int64)
    captions = CaptionChooser("caption", frame["captions"].tolist(), frame["label"].tolist(), 5, per_image=2)
    settings = {"captions": captions, "relations": Relations(labels, labels), "tokenize": tokenize, "seed": 5}
    return PairsDataModule(manifest, tiles, by_label, workers=workers, **{**settings, **options})  # type: ignore[arg-type]
