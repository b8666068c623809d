"""GeoJSON that QuPath opens over the slide by dragging the file onto it.

QuPath crops a slide to its ``openslide.bounds-*`` where these are present (MIRAX above all), so its origin is their
corner, not that of level 0. Areas written in level-0 pixels would lie beside the tissue.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import shapely

from core.files import atomic_write
from core.raster.reader import Raster
from core.raster.regions import Area
from core.types import Resolution

NAMESPACE = uuid.UUID("6f1e4a3e-3d0e-5a3c-9c62-6a1f6e1f3a10")  # arbitrary and fixed: equal areas get equal ids


def qupath_origin(metadata: Mapping[str, str]) -> tuple[float, float]:
    """Level-0 position of QuPath's (0, 0): the corner of the bounds where all four are given, else of level 0."""
    keys = [f"openslide.bounds-{name}" for name in ("x", "y", "width", "height")]
    if not all(key in metadata for key in keys):
        return 0.0, 0.0
    return float(metadata[keys[0]]), float(metadata[keys[1]])


class QuPathGeoJson:
    """Writes areas as QuPath annotations with a classification and measurements.

    Args:
        score: what an area's number is called among its measurements.
    """

    suffix = ".geojson"

    def __init__(self, score: str = "Mean probability") -> None:
        self.score = score

    def write(
        self,
        path: Path,
        raster: Raster,
        areas: Sequence[Area],
        names: Sequence[str],
        colours: Sequence[tuple[int, int, int]],
        score: str | None = None,
    ) -> None:
        """Writes one file.

        Args:
            path: of the file; replaced when it is there.
            raster: the slide; gives the frame and the size of a pixel.
            areas: in level-0 pixels.
            names: of the classes, by label.
            colours: of the classes, RGB 0 to 255.
            score: what an area's number is called here, instead of the writer's own word.

        Raises:
            UserError: the file cannot be written.
        """
        origin = qupath_origin(raster.metadata)
        collection = {
            "type": "FeatureCollection",
            "features": [
                _feature(area, origin, raster, names[area.label], colours[area.label], score or self.score)
                for area in areas
            ],
        }
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(collection), encoding="utf-8")


def _feature(
    area: Area, origin: tuple[float, float], raster: Raster, name: str, colour: tuple[int, int, int], score: str
) -> dict[str, object]:
    moved = shapely.transform(area.polygon, lambda points: (points - origin).round(2))
    measurements = {score: round(area.probability, 6), "Tiles": area.tiles}
    if isinstance(raster.resolution, Resolution):
        square_microns = area.pixels * raster.resolution.x * raster.resolution.y
        measurements["Area um^2"] = round(square_microns, 1)
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(NAMESPACE, f"{name} {moved.wkt}")),
        "geometry": shapely.geometry.mapping(moved),
        "properties": {
            "objectType": "annotation",
            "classification": {"name": name, "color": list(colour)},
            "isLocked": False,
            "measurements": measurements,
        },
    }
