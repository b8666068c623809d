"""Cutting what a model looks at out of a raster, at the model's own geometry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.raster.reader import Raster
from core.types import Geometry, NoResolution, Resolution, UserError, Window


@dataclass(frozen=True)
class Patch:
    """A cut patch and where it comes from."""

    source: Path
    window: Window  # in level-0 pixels
    pixels: np.ndarray  # [s, s, 3] uint8
    valid: np.ndarray  # [s, s] bool
    resolution: float | None  # physical size of a pixel of the patch; None where the raster's is not known


def cut(raster: Raster, where: Window | tuple[float, float] | None, geometry: Geometry) -> Patch:
    """Cuts one patch of ``geometry.size_px`` squared.

    Where pixels must be resampled, it is with the geometry's own interpolation, antialiased.

    A geometry *with* a resolution takes its exact field of view around the centre of ``where`` (resampled, never
    stretched; outside of the raster is background). A geometry *without* one takes the largest square in the middle of
    ``where`` and scales it, as CLIP does with photographs.

    Args:
        raster: an open raster.
        where: a window, a centre (x, y), both in level-0 pixels, or None for the whole raster.
        geometry: size, resolution and interpolation of the patch.

    Raises:
        UserError: the geometry has a resolution and the raster has none, or one of another unit.
        ReadError: the pixels cannot be read.
    """
    window = field_of_view(raster, where, geometry)
    pixels = raster.read(window, (geometry.size_px, geometry.size_px), geometry.interpolation)
    known = isinstance(raster.resolution, Resolution)
    scale = raster.resolution.mean * window.width / geometry.size_px if known else None  # type: ignore[union-attr]
    return Patch(
        raster.path,
        window,
        pixels.values,
        pixels.valid,
        scale if geometry.resolution is None else geometry.resolution,
    )


def field_of_view(raster: Raster, where: Window | tuple[float, float] | None, geometry: Geometry) -> Window:
    """The window that :func:`cut` reads."""
    if where is None:
        where = Window(0, 0, *raster.size)
    if geometry.resolution is None:
        if not isinstance(where, Window):
            raise UserError(
                "a model without a resolution takes whole pictures, a centre alone has no extent", str(raster.path)
            )
        side = min(where.width, where.height)
        return Window(where.x + (where.width - side) / 2, where.y + (where.height - side) / 2, side, side)
    resolution = require_resolution(raster)
    if resolution.unit != geometry.unit:
        raise UserError(
            f"the model's resolution is in {geometry.unit}, the raster's in {resolution.unit}", str(raster.path)
        )
    extent = geometry.size_px * geometry.resolution
    width, height = extent / resolution.x, extent / resolution.y
    x, y = (where.x + where.width / 2, where.y + where.height / 2) if isinstance(where, Window) else where
    left, top = x - width / 2, y - height / 2
    # a whole-pixel window within rounding noise is read without resampling
    if abs(width - geometry.size_px) < 1e-6 and abs(height - geometry.size_px) < 1e-6:
        left, top = float(round(left)), float(round(top))
    return Window(left, top, width, height)


def require_resolution(raster: Raster) -> Resolution:
    """The raster's resolution.

    Raises:
        UserError: it has none; the message says why and how to supply it.
    """
    if isinstance(raster.resolution, NoResolution):
        raise UserError(raster.resolution.reason, str(raster.path))
    return raster.resolution
