"""Discs and squares, small or large, as PNG pictures with captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

LOOKS = {
    "small disc": ("disc", 8),
    "large disc": ("disc", 22),
    "small square": ("square", 8),
    "large square": ("square", 22),
}


def make(folder: Path, seed: int = 0, count: int = 240) -> Path:
    """Writes the pictures and ``manifest.csv`` into ``folder`` and returns the manifest's path."""
    manifest = Path(folder) / "manifest.csv"
    if manifest.exists():
        return manifest
    random = np.random.default_rng(seed)
    Path(folder).mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        label = list(LOOKS)[number % len(LOOKS)]
        shape, radius = LOOKS[label]
        image = Image.fromarray(random.integers(200, 256, (64, 64, 3), np.uint8))
        x, y = random.integers(24, 40, 2)
        draw = ImageDraw.Draw(image)
        paint = draw.ellipse if shape == "disc" else draw.rectangle
        paint((x - radius, y - radius, x + radius, y + radius), fill=tuple(random.integers(0, 160, 3)))
        image.save(Path(folder) / f"{number}.png")
        split = ("train", "train", "val", "test")[number // 4 % 4]
        rows.append({"path": f"{number}.png", "group": number, "label": label, "caption": f"a {label}", "split": split})
    pd.DataFrame(rows).to_csv(manifest, index=False)
    return manifest
