from __future__ import annotations

import json
from pathlib import Path

import pytest
import shapely

from core.raster.regions import Area
from core.types import NoResolution, Resolution
from domains.pathology.outputs.qupath import QuPathGeoJson, qupath_origin
from tests.core.raster.pictures import MemoryRaster, noise

BOUNDS = {f"openslide.bounds-{k}": v for k, v in (("x", "1000"), ("y", "2000"), ("width", "500"), ("height", "400"))}


def written(tmp_path: Path, metadata: dict[str, str], resolution: Resolution | NoResolution) -> list[dict]:
    raster = MemoryRaster([noise(64, 64)], resolution)
    raster.metadata = metadata
    ring = shapely.box(1100, 2100, 1400, 2300) - shapely.box(1200, 2150, 1300, 2250)
    areas = [Area(1, ring, 5, 0.75), Area(0, shapely.box(1000, 2000, 1100, 2100), 1, 0.5)]
    path = tmp_path / "slide.geojson"
    QuPathGeoJson().write(path, raster, areas, ["stroma", "tumour"], [(1, 2, 3), (200, 0, 100)])
    collection = json.loads(path.read_text())
    assert collection["type"] == "FeatureCollection"
    return collection["features"]


def test_the_origin_is_the_corner_of_the_bounds_only_where_all_four_are_given() -> None:
    assert qupath_origin(BOUNDS) == (1000, 2000)
    assert qupath_origin({}) == (0, 0)
    assert qupath_origin({"openslide.bounds-x": "5", "openslide.bounds-y": "6"}) == (0, 0)


def test_areas_move_by_the_bounds_and_keep_class_colour_and_measurements(tmp_path: Path) -> None:
    tumour, stroma = written(tmp_path, BOUNDS, Resolution(0.5, 0.25, "um", "test"))
    assert shapely.geometry.shape(tumour["geometry"]).bounds == (100, 100, 400, 300)
    assert len(tumour["geometry"]["coordinates"]) == 2  # the hole is there
    assert tumour["properties"]["objectType"] == "annotation"
    assert tumour["properties"]["classification"] == {"name": "tumour", "color": [200, 0, 100]}
    assert tumour["properties"]["measurements"] == {
        "Mean probability": 0.75,
        "Tiles": 5,
        "Area um^2": pytest.approx((300 * 200 - 100 * 100) * 0.125),
    }
    assert shapely.geometry.shape(stroma["geometry"]).bounds == (0, 0, 100, 100)


def test_without_bounds_the_frame_is_level_0_and_without_resolution_there_is_no_area(tmp_path: Path) -> None:
    tumour, _ = written(tmp_path, {}, NoResolution("unknown", "um"))
    assert shapely.geometry.shape(tumour["geometry"]).bounds == (1100, 2100, 1400, 2300)
    assert "Area um^2" not in tumour["properties"]["measurements"]


def test_equal_areas_get_equal_ids(tmp_path: Path) -> None:
    first = [feature["id"] for feature in written(tmp_path, BOUNDS, NoResolution("", "um"))]
    again = [feature["id"] for feature in written(tmp_path, BOUNDS, NoResolution("", "um"))]
    assert first == again
    assert len(set(first)) == 2
