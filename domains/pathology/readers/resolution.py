"""Microns per pixel of a slide: where it is written, whether it can be true, and how to supply it."""

from __future__ import annotations

from collections.abc import Mapping

from core.types import SUPPLIED, NoResolution, Resolution, UserError

SMALLEST_MPP, LARGEST_MPP = 0.05, 10.0  # a 160x oil scan; a photograph of a whole slide
LARGEST_CONFLICT = 4.0  # 0.2325 at "20x" exists (a 2x lens behind the objective); a factor of ten is a slip
OBJECTIVE_MICRONS = 10.0  # microns per pixel times objective power of common cameras: 0.5 at 20x, 0.25 at 40x
CURE = "supply it in a manifest column mpp or as data.resolution="

# ordered: OpenSlide's own reading, then what vendors write where OpenSlide does not read it
KEYS = (
    ("openslide.mpp-x", "openslide.mpp-y"),
    ("aperio.MPP", "aperio.MPP"),
    ("hamamatsu.XResolution", "hamamatsu.YResolution"),
    ("tiff.XResolution", "tiff.YResolution"),
)
MICRONS = {"inch": 25400.0, "centimeter": 10000.0, "centimetre": 10000.0, "cm": 10000.0, "2": 25400.0, "3": 10000.0}


def resolution_of(properties: Mapping[str, str], given: float | None = None) -> Resolution | NoResolution:
    """Decides the resolution of a slide.

    Args:
        properties: of the file, in OpenSlide's names.
        given: microns per pixel from a manifest or the config; overrides the file's.

    Returns:
        A resolution, or the named reason why there is none and the cure. Nothing is guessed: objective power alone
        gives no resolution, it only contradicts an impossible one.

    Raises:
        UserError: ``given`` is not a positive number that a microscope could have.
    """
    if given is not None:
        if not SMALLEST_MPP <= given <= LARGEST_MPP:
            raise UserError(
                f"{given} microns per pixel were supplied; expected {SMALLEST_MPP} to {LARGEST_MPP:g}",
                todo="correct the manifest column mpp or data.resolution",
            )
        return Resolution(given, given, "um", SUPPLIED)
    for key_x, key_y in KEYS:
        x, y = _microns(properties, key_x), _microns(properties, key_y)
        if x is None and y is None:
            continue
        x, y = (x or y or 0.0), (y or x or 0.0)  # one axis alone stands for both
        return _credible(Resolution(x, y, "um", key_x), properties)
    return NoResolution(f"the file has no microns per pixel; {CURE}", "um")


def _microns(properties: Mapping[str, str], key: str) -> float | None:
    value = _number(properties.get(key))
    if value is None or value <= 0:
        return None
    if key.startswith(("tiff.", "hamamatsu.")):  # pixels per length
        unit = MICRONS.get(properties.get("tiff.ResolutionUnit", "").lower())
        return None if unit is None else unit / value
    return value


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text.strip().replace(",", "."))
    except ValueError:
        return None


def _credible(found: Resolution, properties: Mapping[str, str]) -> Resolution | NoResolution:
    power = _number(properties.get("openslide.objective-power"))
    said = f"{found.source} is {found.x:.5g} microns per pixel"
    if power:
        factor = found.mean * power / OBJECTIVE_MICRONS
        if not 1 / LARGEST_CONFLICT <= factor <= LARGEST_CONFLICT:
            expected = OBJECTIVE_MICRONS / power
            return NoResolution(f"{said} but the objective is {power:g}x (about {expected:.2g}); {CURE}", "um")
    for value in (found.x, found.y):
        if not SMALLEST_MPP <= value <= LARGEST_MPP:
            limits = f"implausible for a microscope ({SMALLEST_MPP} to {LARGEST_MPP:g})"
            return NoResolution(f"{said}, {limits}; {CURE}", "um")
    return found
