"""Plain images (JPEG, PNG, untiled TIFF, BMP ...) as rasters of one level."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from core.raster.array import ArrayRaster
from core.raster.reader import ReadError
from domains.pathology.readers.resolution import resolution_of

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow would clip these to 8 bits without a word


def open_picture(path: Path, resolution: float | None = None) -> ArrayRaster:
    """Opens a plain image without decoding it.

    Raises:
        ReadError: Pillow does not know it, it has more than 8 bits a channel, or is too large to be decoded whole.
    """
    try:
        with Image.open(path) as image:
            if image.mode in DEEP_MODES:
                raise ReadError(
                    f"pixels of mode {image.mode} are not 8-bit", str(path), "convert it to 8 bits a channel"
                )
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations 5 to 8 swap width and height
            size = (image.height, image.width) if turned else image.size
            dpi = image.info.get("dpi")
    except UnidentifiedImageError as error:
        raise ReadError("cannot be opened: neither OpenSlide nor Pillow recognises it", str(path)) from error
    except Image.DecompressionBombError as error:
        raise ReadError(f"too large for a plain image: {error}", str(path), "convert it to a tiled pyramid") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ReadError(f"cannot be opened: {error}", str(path)) from error
    properties = {}
    if dpi:
        properties = {
            "tiff.XResolution": str(float(dpi[0])),
            "tiff.YResolution": str(float(dpi[1])),
            "tiff.ResolutionUnit": "inch",
        }
    return ArrayRaster(path, size, decode_picture, resolution_of(properties, resolution), properties)


def decode_picture(path: Path) -> np.ndarray:
    """uint8 [H, W, 3], upright, transparency on white.

    Raises:
        ReadError: the file is truncated or corrupt.
    """
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ReadError(f"cannot be read: {error}", str(path)) from error
    if "A" in upright.mode or "transparency" in upright.info:
        layered = upright.convert("RGBA")
        flat = Image.new("RGB", layered.size, "white")
        flat.paste(layered, mask=layered.getchannel("A"))
        return np.asarray(flat)
    return np.asarray(upright.convert("RGB"))
