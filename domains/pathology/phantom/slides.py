"""Draws a planned slide, and writes it as the pyramidal TIFF that OpenSlide opens as generic-tiff."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, ImageDraw

from domains.pathology.phantom import tissue
from domains.pathology.phantom.cohort import SlidePlan
from domains.pathology.phantom.diseases import Leaf

WIDTH_PX, HEIGHT_PX = 1600, 1152  # level 0
COLUMNS, ROWS = 3, 2  # a lesion in each cell of this grid
FIELD_PX = 128  # a field of view: 64 microns
FIELDS_PER_LESION, STROMA_FIELDS = 6, 4
LEVELS = 3
JPEG_QUALITY = 80

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Field:
    """A field of view worth a caption."""

    x: int  # level-0 pixels of the top left corner
    y: int
    leaf: int  # class
    lesion: int  # number of the lesion on its slide, -1: stroma


@dataclass(frozen=True)
class Slide:
    """A drawn slide with its truth."""

    pixels: npt.NDArray[np.uint8]  # [HEIGHT_PX, WIDTH_PX, 3]
    outlines: tuple[Points, ...]  # of the lesions, level-0 pixels, in the order of the plan
    fields: tuple[Field, ...]


def draw(
    plan: SlidePlan,
    leaves: Sequence[Leaf],
    stain: tissue.Stain,
    places: np.random.Generator,
    brush: np.random.Generator,
) -> Slide:
    """Draws the planned lesions into stroma with a ragged edge on glass, and chooses fields of view.

    Outlines and fields come from ``places`` alone, whatever is drawn with ``brush``: the cohorts of both settings have
    the same items, so that runs on them can be paired.
    """
    h, e = tissue.stroma(HEIGHT_PX, WIDTH_PX, brush)
    owner = _mask(_edge(places), -1, -2)  # -2 glass, -1 stroma, otherwise the number of a lesion
    outlines = []
    for number, code in enumerate(plan.leaves):
        growth, variant = leaves[code].growth, leaves[code].variant
        assert growth is not None  # stroma is not planned as a lesion
        assert variant is not None
        middle = _place(number, places)
        outline = middle + places.uniform(195, 225) * _blob(places, 36, 0.05)
        low = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
        side = int(np.ceil((outline.max(axis=0) - low).max())) + 1
        there = slice(low[1], low[1] + side), slice(low[0], low[0] + side)
        inside = _mask(outline, 1, 0)[there].astype(bool) & (owner[there] == -1)
        square = [_square(plane[there], side) for plane in (h, e)]
        for plane, painted in zip((h, e), tissue.lesion((square[0], square[1]), growth, variant, brush), strict=True):
            plane[there][inside] = painted[: inside.shape[0], : inside.shape[1]][inside]
        owner[there][inside] = number
        outlines.append(outline)
    pixels = tissue.expose(h, e, owner > -2, stain, brush)
    fields = [
        Field(x, y, code, number)
        for number, code in enumerate(plan.leaves)
        for x, y in _fields(owner, number, FIELDS_PER_LESION, places)
    ]
    normal = next(code for code, leaf in enumerate(leaves) if leaf.growth is None)
    fields.extend(Field(x, y, normal, -1) for x, y in _fields(owner, -1, STROMA_FIELDS, places))
    return Slide(pixels, tuple(outlines), tuple(fields))


def write(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Tiled JPEG, levels halved twice, each a page of its own; microns per pixel in the resolution tags."""
    image = Image.fromarray(pixels)
    per_centimetre = 10_000 / tissue.MPP
    with tifffile.TiffWriter(path) as tiff:
        for level in range(LEVELS):
            scaled = image if level == 0 else image.reduce(2**level)
            tiff.write(
                np.asarray(scaled),
                photometric="rgb",
                tile=(256, 256),
                compression="jpeg",
                compressionargs={"level": JPEG_QUALITY},
                resolution=(per_centimetre / 2**level, per_centimetre / 2**level),
                resolutionunit="CENTIMETER",
                subfiletype=0 if level == 0 else 1,
                software="trivium phantom (synthetic)",
                metadata=None,
                maxworkers=1,
            )


def _edge(rng: np.random.Generator) -> Points:
    """Outline of the piece of tissue: a wobbly rounded rectangle that leaves a rim of glass."""
    blob = _blob(rng, 72, 0.012)
    half = np.array([WIDTH_PX, HEIGHT_PX]) / 2
    return half + np.sign(blob) * np.abs(blob) ** 0.45 * half * 0.94


def _place(number: int, rng: np.random.Generator) -> Points:
    """Centre of a lesion: the middle of its cell, drawn inwards from the ragged edge, give or take."""
    cell = np.array([WIDTH_PX / COLUMNS, HEIGHT_PX / ROWS])
    from_middle = (np.array([number % COLUMNS, number // COLUMNS]) + 0.5 - np.array([COLUMNS, ROWS]) / 2) * cell
    return np.array([WIDTH_PX, HEIGHT_PX]) / 2 + from_middle * (0.9, 0.86) + rng.uniform(-16, 16, 2)


def _blob(rng: np.random.Generator, count: int, roughness: float) -> Points:
    """A closed wobbly outline around the origin, about 1 from it, [count, 2]."""
    around = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radius = np.ones(count)
    for waves in (2, 3, 5):
        radius += roughness * rng.normal() * np.sin(waves * around + rng.uniform(0, 6))
    return radius[:, None] * np.stack([np.cos(around), np.sin(around)], axis=1)


def _mask(outline: Points, inside: int, outside: int) -> npt.NDArray[np.int32]:
    image = Image.new("I", (WIDTH_PX, HEIGHT_PX), outside)
    ImageDraw.Draw(image).polygon([tuple(point) for point in outline.tolist()], fill=inside)
    return np.array(image)


def _square(plane: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """The plane padded to a square, where a lesion reaches over the edge of the slide."""
    missing = [(0, side - length) for length in plane.shape]
    return np.pad(plane, missing, mode="edge")


def _fields(owner: npt.NDArray[np.int32], number: int, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Top left corners of fields that lie in one lesion (or in stroma) almost entirely.

    Fields of a lesion keep apart from each other where there is room; a place is refused when more than 4 % of it is
    something else.
    """
    found: list[tuple[int, int]] = []
    rows, columns = np.nonzero(owner[::16, ::16] == number)
    order = rng.permutation(len(rows))
    for apart in (FIELD_PX * 0.75, FIELD_PX * 0.5, 0):
        for k in order:
            if len(found) == count:
                return found
            x, y = int(columns[k] * 16 - FIELD_PX // 2), int(rows[k] * 16 - FIELD_PX // 2)
            if x < 0 or y < 0 or x + FIELD_PX > WIDTH_PX or y + FIELD_PX > HEIGHT_PX:
                continue
            if any(max(abs(x - a), abs(y - b)) < apart or (x, y) == (a, b) for a, b in found):
                continue
            if (owner[y : y + FIELD_PX, x : x + FIELD_PX] == number).mean() >= 0.96:
                found.append((x, y))
    return found
