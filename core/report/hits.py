"""Found tiles on disk: ``hits.csv``, and ``hits.html`` with their pictures inside."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.files import atomic_write
from core.report import page

PLACE = ("rank", "similarity", "slide", "x", "y", "w", "h")  # columns every hit has; the others are the manifest's


def write_hits(
    folder: Path,
    table: pd.DataFrame,
    thumbnails: Sequence[np.ndarray | None],
    asked: str,
    example: np.ndarray | None,
    facts: Mapping[str, str],
    areas: Mapping[str, str],
    notes: Sequence[str] = (),
    withheld: Collection[str] = (),
) -> Path:
    """Writes both files and returns the path of the page.

    Args:
        folder: of the run.
        table: a row a hit, best first: rank, similarity, slide, x, y, w, h (level-0 pixels), columns of the manifest.
        thumbnails: of the hits, uint8 [h, w, 3], or None where the slide could not be read.
        asked: what was looked for.
        example: the picture that was looked for, uint8 [h, w, 3]; None: a text was.
        facts: what a reader must know to trust the list, in the order shown.
        areas: file of areas, relative to the folder, by slide.
        notes: badges: "synthetic".
        withheld: slides of which nothing is shown.

    Raises:
        UserError: a file cannot be written.
    """
    rounded = table.assign(similarity=table["similarity"].astype(np.float64).round(6))
    with atomic_write(folder / "hits.csv") as temporary:
        rounded.to_csv(temporary, index=False)
    shown = [_shown(row, picture) for row, picture in zip(table.to_dict("records"), thumbnails, strict=True)]
    counts = table["slide"].value_counts()
    slides = [{"name": name, "hits": int(counts[name]), "areas": areas.get(name, ""),
               "none": "withheld" if name in withheld else "none: the slide could not be read"}
              for name in dict.fromkeys(table["slide"])]  # fmt: skip
    target = folder / "hits.html"
    context = {
        "asked": asked,
        "example": None if example is None else page.image_source(example),
        "rows": shown,
        "slides": slides,
        "facts": facts,
        "notes": list(notes),
    }
    with atomic_write(target) as temporary:
        temporary.write_text(page.render("hits.html.j2", **context), encoding="utf-8")
    return target


def _shown(row: Mapping[Any, Any], picture: np.ndarray | None) -> dict[str, object]:
    """A hit for people."""
    more = [f"{name} {value}" for name, value in row.items() if name not in PLACE and not _missing(value)]
    return {
        "src": None if picture is None else page.image_source(picture, 85),
        "rank": row["rank"],
        "similarity": f"{row['similarity']:.3f}",
        "slide": row["slide"],
        "place": f"x {row['x']}, y {row['y']}",
        "more": ", ".join(more),
    }


def _missing(value: object) -> bool:
    return value is None or value != value
