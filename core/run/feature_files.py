"""The files that `embed` keeps of slides: what they must have in common, whether one is done, its fate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.mil.features import SUFFIX, DamagedFile, FeatureAttributes, Header, read_header, write_features
from core.models.encoder import ImageEncoder
from core.raster.patch import require_resolution
from core.run.embedding import Embedded
from core.run.slides import Source, Tiled, why_empty
from core.types import SUPPLIED, Fate, UserError, Window


@dataclass(frozen=True)
class Plan:
    """What one run asks of every slide, and where it puts the answers."""

    encoder: ImageEncoder
    overlap: float  # share of a tile's side
    min_coverage: float
    out: Path
    sharing: str = "open"

    def settings(self) -> dict[str, Any]:
        """What all files of one folder have in common."""
        geometry = self.encoder.geometry
        return {
            "encoder": self.encoder.name,
            "weights_sha256": self.encoder.weights_sha256,
            "space": self.encoder.space,
            "precision": self.encoder.precision,
            "tile_px": geometry.size_px,
            "tile_resolution": geometry.resolution,
            "unit": geometry.unit,
            "overlap": float(self.overlap),
            "min_coverage": float(self.min_coverage),
            "sharing": self.sharing,
        }

    def file(self, source: Source) -> Path:
        """Where a slide's features are."""
        return self.out / f"{source.input.name}{SUFFIX}"


def finished(plan: Plan, source: Source) -> Header | None:
    """What an earlier run left of a slide; None where there is nothing, or nothing that is whole and of this slide.

    Raises:
        UserError: the file is not ours to replace: another encoder, other tiles, a newer version, another layout.
    """
    path = plan.file(source)
    if not path.exists():
        return None
    try:
        header = read_header(path)
    except DamagedFile:
        return None
    there = asdict(header.attributes)
    for key, value in plan.settings().items():
        if there[key] != value:
            raise UserError(
                f"'{path}' holds other features: its {key} is {there[key]}, this run's is {value}",
                todo="choose another folder with out=, or delete the old one",
            )
    return None if _rescaled(header.attributes, source) or there["slide_bytes"] != _bytes(source) else header


def header_of(plan: Plan, source: Source, result: Embedded) -> Header:
    """What the file of a slide says of itself."""
    tiled, resolution = result.tiled, require_resolution(result.tiled.raster)
    attributes = FeatureAttributes(
        name=source.input.name,
        resolution_x=resolution.x,
        resolution_y=resolution.y,
        resolution_source=resolution.source,
        width=tiled.raster.size[0],
        height=tiled.raster.size[1],
        grid_tiles=len(tiled.grid),
        slide_bytes=_bytes(source),
        error=result.error,
        note=why_empty(tiled),
        **plan.settings(),
    )
    return Header(attributes, len(result.indices), _corners(tiled, result.failed))


def keep(plan: Plan, source: Source, result: Embedded) -> Header | Fate:
    """Writes what a slide gave, and says what was written, or why nothing was.

    Raises:
        UserError: the file cannot be written.
    """
    header = header_of(plan, source, result)
    if len(header.failed) and not header.tiles:
        return fate_of(source, header)
    if not np.isfinite(result.features).all():
        what = f"features are not finite: {plan.encoder.precision} of the encoder, stored as float16 (at most 65504)"
        return Fate(source.input.name, "refused", what, {"files": source.input.files})
    corners = _corners(result.tiled, result.indices)
    write_features(plan.file(source), corners, result.features, header.attributes, header.failed)
    return header


def fate_of(source: Source, header: Header) -> Fate:
    """The row of ``status.csv``: the same for a slide that was embedded now and for one that was embedded before."""
    known, failed = header.attributes, len(header.failed)
    counts: dict[str, int | float | str] = {
        "width": known.width,
        "height": known.height,
        "resolution_x": known.resolution_x,
        "resolution_y": known.resolution_y,
        "resolution_source": known.resolution_source,
        "grid_tiles": known.grid_tiles,
        "tiles": header.tiles,
        "failed_tiles": failed,
        "files": source.input.files,
        "note": known.note,
    }
    if not failed:
        return Fate(source.input.name, "ok", "", counts)
    text = f"{failed} of {failed + header.tiles} tiles cannot be read: {known.error}"
    return Fate(source.input.name, "partial" if header.tiles else "refused", text, counts)


def failed_tiles(headers: Mapping[Source, Header]) -> list[tuple[str, Window, str]]:
    """Every tile that could not be read, of slides in order of their names."""
    rows = []
    for source in sorted(headers, key=lambda source: source.input.name):
        known = headers[source].attributes
        width, height = known.tile_size / known.resolution_x, known.tile_size / known.resolution_y
        places = [Window(int(x), int(y), width, height) for x, y in headers[source].failed]
        rows += [(source.input.name, place, known.error) for place in places]
    return rows


def _rescaled(there: FeatureAttributes, source: Source) -> bool:
    """Whether a slide would be read at another resolution than the one its features were made at."""
    if source.resolution is None:  # the slide's own counts, and one that was supplied before is taken back
        return there.resolution_source == SUPPLIED
    return (there.resolution_x, there.resolution_y) != (source.resolution, source.resolution)


def _bytes(source: Source) -> int:
    return source.input.path.stat().st_size if source.input.path.is_file() else 0


def _corners(tiled: Tiled, indices: np.ndarray) -> np.ndarray:
    """[N, 2] int64, level-0 pixels: corners of tiles are fractions of a pixel in general, TRIDENT's layout is whole."""
    windows = [tiled.grid.window(int(index)) for index in indices]
    return np.array([(round(place.x), round(place.y)) for place in windows], np.int64).reshape(-1, 2)
