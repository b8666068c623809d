"""Draws stained tissue: two planes of dye, drawn in level-0 pixels, then looked up in a table of colours.

A plane says how much haematoxylin (h) or eosin (e) there is, 0 to 255; the light that comes through is
``255 exp(-(h H + e E))`` for the colour vectors H and E of the patient's stain (Beer-Lambert; Ruifrok and Johnston
2001). Drawing in dye means that a stain can differ by patient while the tissue is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from domains.pathology.phantom.diseases import Growth, Variant

MPP = 0.5  # microns per level-0 pixel
PX = 1 / MPP  # level-0 pixels per micron
STROMA = (10, 62)  # haematoxylin and eosin of collagen
NECROSIS = (22, 128)
GLASS = (0, 0)

Plane = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]  # [n, 2] x, y


@dataclass(frozen=True)
class Stain:
    """How one patient's slides are stained, scanned and focused: nuisance that says nothing about disease."""

    haematoxylin: tuple[float, float, float]  # optical density of full dye in red, green, blue
    eosin: tuple[float, float, float]
    light: float  # brightness of empty glass, 0 to 1
    blur_px: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Stain:
        """A stain as laboratories vary."""
        h = np.array([1.55, 1.75, 0.85]) * rng.normal(1, 0.07, 3) * rng.uniform(0.78, 1.22)
        e = np.array([0.16, 1.55, 0.75]) * rng.normal(1, 0.08, 3) * rng.uniform(0.75, 1.25)
        return cls(tuple(h.tolist()), tuple(e.tolist()), float(rng.uniform(0.92, 0.98)), float(rng.uniform(0.6, 1.1)))

    def colours(self) -> npt.NDArray[np.uint8]:
        """Colour by dye, [256, 256, 3] at (h, e)."""
        dye = np.arange(256) / 255
        density = dye[:, None, None] * np.array(self.haematoxylin) + dye[None, :, None] * np.array(self.eosin)
        return np.clip(255 * self.light * np.exp(-density), 0, 255).astype(np.uint8)


class Canvas:
    """Two planes of dye to draw on."""

    def __init__(self, h: Plane, e: Plane) -> None:
        self.h, self.e = Image.fromarray(h), Image.fromarray(e)
        self._draw_h, self._draw_e = ImageDraw.Draw(self.h), ImageDraw.Draw(self.e)

    def planes(self) -> tuple[Plane, Plane]:
        """Both planes as arrays [H, W]."""
        return np.array(self.h), np.array(self.e)

    def polygon(self, points: Points, dye: tuple[int, int]) -> None:
        """A filled outline."""
        corners = [tuple(point) for point in points.tolist()]
        self._draw_h.polygon(corners, fill=dye[0])
        self._draw_e.polygon(corners, fill=dye[1])

    def band(self, line: Points, width: float, dye: tuple[int, int]) -> None:
        """A strip of some width along a line."""
        self.polygon(np.concatenate([_beside(line, width / 2), _beside(line, -width / 2)[::-1]]), dye)

    def nuclei(self, centres: Points, variant: Variant, rng: np.random.Generator, scale: float = 1.0) -> None:
        """Nuclei of a variant at these places."""
        n = len(centres)
        diameters = variant.nucleus * PX * scale * np.clip(rng.normal(1, variant.spread, n), 0.5, 2.0)
        elongations = np.clip(rng.normal(variant.elongation, 0.12, n), 1.0, 2.2)
        self.spots(centres, diameters, elongations, variant.darkness, rng, roughness=variant.spread / 3)

    def spots(
        self,
        centres: Points,
        diameters: npt.NDArray[np.float64] | float,
        elongations: npt.NDArray[np.float64] | float,
        darkness: int,
        rng: np.random.Generator,
        roughness: float = 0.0,
    ) -> None:
        """Dark ovals in the plane of haematoxylin, each turned at random."""
        n = len(centres)
        around = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        radii = np.broadcast_to(np.asarray(diameters) / 2, (n,))[:, None] * (1 + roughness * rng.normal(size=(n, 12)))
        long = np.sqrt(np.broadcast_to(np.asarray(elongations), (n,)))[:, None]
        x, y = radii * np.cos(around) * long, radii * np.sin(around) / long
        turn = rng.uniform(0, np.pi, n)[:, None]
        outlines = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=-1)
        outlines += centres[:, None, :]
        fills = np.clip(rng.normal(darkness, 16, n), 40, 255).astype(int)
        for outline, fill in zip(outlines.reshape(n, 24).tolist(), fills.tolist(), strict=True):
            self._draw_h.polygon(outline, fill=fill)


def stroma(height: int, width: int, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Wavy collagen with sparse spindle nuclei."""
    fibres = _noise(height, width, (90, 10) if rng.random() < 0.5 else (10, 90), rng)
    patchy = _noise(height, width, (160, 160), rng)
    e = np.clip(STROMA[1] + 15 * fibres + 9 * patchy, 0, 255).astype(np.uint8)
    canvas = Canvas(np.full((height, width), STROMA[0], np.uint8), e)
    count = int(height * width * MPP**2 / 1000 * 0.9)
    places = rng.uniform(0, 1, (count, 2)) * (width, height)
    canvas.spots(places, 4.6 * PX, rng.uniform(1.8, 2.6, count), 130, rng)
    return canvas.planes()


def lesion(
    under: tuple[Plane, Plane], growth: Growth, variant: Variant, rng: np.random.Generator
) -> tuple[Plane, Plane]:
    """Tumour tissue over a square of stroma, [s, s] planes of dye."""
    canvas = Canvas(*under)
    side = len(under[0])
    # lesions of a kind differ too: in size of cells, in tone and in how much there is of what marks the variant
    scale = float(np.clip(rng.normal(1, 0.08), 0.8, 1.2))
    tone = tuple(int(np.clip(value * rng.normal(1, 0.15), 0, 255)) for value in growth.cytoplasm)
    centres = _ARCHITECTURES[growth.architecture](canvas, side, (tone[0], tone[1]), scale, rng)
    canvas.nuclei(centres, variant, rng, scale)
    area = (side * MPP) ** 2 / 1000
    amount = float(np.exp(rng.normal(0, 0.35)))
    if variant.necrosis:
        _necrosis(canvas, side, variant.necrosis * amount, rng)
    places = rng.uniform(0, side, (rng.poisson(variant.lymphocytes * amount * area), 2))
    canvas.spots(places, 3.6 * PX, 1.05, 215, rng)
    return canvas.planes()


def expose(h: Plane, e: Plane, tissue: npt.NDArray[np.bool_], stain: Stain, rng: np.random.Generator) -> Plane:
    """What the scanner sees, [H, W, 3] uint8: dye, blur, grain, and glass outside of the tissue."""
    grain = 5 * rng.standard_normal(h.shape, dtype=np.float32) * tissue
    shown = []
    for plane in (h, e):
        soft = Image.fromarray(np.where(tissue, plane, 0).astype(np.uint8)).filter(ImageFilter.BoxBlur(stain.blur_px))
        shown.append(np.clip(grain + np.asarray(soft), 0, 255).astype(np.uint8))
    image: Plane = stain.colours()[shown[0], shown[1]]
    return image


def _noise(height: int, width: int, grain: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Smooth noise of unit variance before smoothing, with lumps of the given width and height."""
    coarse = rng.standard_normal((height // grain[1] + 3, width // grain[0] + 3), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _scatter(side: float, spacing: float, jitter: float, rng: np.random.Generator) -> Points:
    """A jittered hexagonal grid over a square and a little beyond."""
    rows = np.arange(-1, int(side / (spacing * 0.87)) + 2)
    columns = np.arange(-1, int(side / spacing) + 2)
    y, x = np.meshgrid(rows * spacing * 0.87, columns * spacing, indexing="ij")
    x = x + (rows % 2)[:, None] * spacing / 2
    grid = np.stack([x.ravel(), y.ravel()], axis=1)
    return grid + rng.normal(0, jitter * spacing, grid.shape)


def _glands(canvas: Canvas, side: int, tone: tuple[int, int], scale: float, rng: np.random.Generator) -> Points:
    around = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    centres = []
    for x, y in _scatter(side, 72 * scale, 0.06, rng):
        outer = 31 * scale * rng.normal(1, 0.07)
        wave = 1 + 0.08 * np.sin(2 * around + rng.uniform(0, 6)) + 0.05 * np.sin(3 * around + rng.uniform(0, 6))
        ring = np.stack([np.cos(around), np.sin(around)], axis=1) * wave[:, None]
        canvas.polygon((x, y) + outer * ring, tone)
        canvas.polygon((x, y) + outer * rng.uniform(0.32, 0.48) * ring, GLASS)
        count = max(6, round(2 * np.pi * outer * 0.74 / (12.5 * scale)))
        angles = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.uniform(0, 6) + rng.normal(0, 0.08, count)
        radius = outer * 0.74 * rng.normal(1, 0.04, count)
        centres.append(np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1))
    return np.concatenate(centres)


def _sheets(canvas: Canvas, side: int, tone: tuple[int, int], scale: float, rng: np.random.Generator) -> Points:
    canvas.polygon(np.array([[0, 0], [side, 0], [side, side], [0, side]], dtype=float), tone)
    return _scatter(side, 21 * scale, 0.16, rng)


def _rows(side: int, period: float, rng: np.random.Generator) -> list[Points]:
    """Wavy lines that cross a square in one direction, each a chain of points 1 px apart."""
    turn = rng.uniform(0, np.pi)
    forward, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    along = np.arange(-0.75 * side, 0.75 * side, 1.0)
    wavelength, phase = rng.uniform(140, 240), rng.uniform(0, 6)
    lines = []
    for offset in np.arange(-0.75 * side, 0.75 * side, period):
        wave = 9 * np.sin(2 * np.pi * along / wavelength + phase + rng.normal(0, 0.3)) + rng.normal(0, period * 0.06)
        lines.append(side / 2 + along[:, None] * forward + (offset + wave)[:, None] * across)
    return lines


def _beside(line: Points, distance: float) -> Points:
    """The line moved sideways."""
    forward = np.gradient(line, axis=0)
    normal = np.stack([-forward[:, 1], forward[:, 0]], axis=1) / np.linalg.norm(forward, axis=1, keepdims=True)
    return line + distance * normal


def _cords(canvas: Canvas, side: int, tone: tuple[int, int], scale: float, rng: np.random.Generator) -> Points:
    centres = []
    for line in _rows(side, 42 * scale, rng):
        canvas.band(line[::8], 23 * scale, tone)
        chain = line[rng.integers(0, 16) :: max(1, round(16 * scale))]
        centres.append(chain + rng.normal(0, 1.8, chain.shape))
    return np.concatenate(centres)


def _papillae(canvas: Canvas, side: int, tone: tuple[int, int], scale: float, rng: np.random.Generator) -> Points:
    canvas.polygon(np.array([[0, 0], [side, 0], [side, side], [0, side]], dtype=float), GLASS)
    centres = []
    for line in _rows(side, 68 * scale, rng):
        canvas.band(line[::8], 52 * scale, tone)
        canvas.band(line[::8], 9 * scale, STROMA)
        for distance in (-16 * scale, 16 * scale):
            chain = _beside(line, distance)[rng.integers(0, 14) :: max(1, round(14 * scale))]
            centres.append(chain + rng.normal(0, 1.6, chain.shape))
    return np.concatenate(centres)


def _necrosis(canvas: Canvas, side: int, share: float, rng: np.random.Generator) -> None:
    around = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    radius = 19.0
    spacing = radius * np.sqrt(np.pi / (0.87 * min(share, 0.45)))
    for x, y in _scatter(side, spacing, 0.14, rng):
        size = radius * rng.uniform(0.75, 1.25)
        wave = 1 + 0.15 * np.sin(2 * around + rng.uniform(0, 6)) + 0.1 * np.sin(3 * around + rng.uniform(0, 6))
        outline = np.stack([x + size * wave * np.cos(around), y + size * wave * np.sin(around)], axis=1)
        canvas.polygon(outline, NECROSIS)
        dust = rng.normal((x, y), size * 0.42, (int(size * 0.8), 2))
        canvas.spots(dust, rng.uniform(2.5, 5.0, len(dust)), 1.0, 200, rng)


_ARCHITECTURES = {"glands": _glands, "sheets": _sheets, "cords": _cords, "papillae": _papillae}
