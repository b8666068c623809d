from __future__ import annotations

import pytest

from core.types import NoResolution, Resolution, UserError
from domains.pathology.readers.resolution import resolution_of


def properties(mpp: str, power: str | None = None) -> dict[str, str]:
    made = {"openslide.mpp-x": mpp, "openslide.mpp-y": mpp}
    return made if power is None else {**made, "openslide.objective-power": power}


def test_the_files_own_resolution_is_used_and_its_source_named() -> None:
    assert resolution_of(properties("0.499", "20")) == Resolution(0.499, 0.499, "um", "openslide.mpp-x")


def test_a_supplied_resolution_overrides_a_wrong_one() -> None:
    assert resolution_of(properties("352.7", None), 0.5) == Resolution(0.5, 0.5, "um", "supplied")
    with pytest.raises(UserError, match=r"expected 0\.05 to 10"):
        resolution_of({}, 352.7)


@pytest.mark.parametrize(
    ("mpp", "power", "words"),
    [
        ("352.78", None, "352.78 microns per pixel, implausible"),
        ("0.0499", "20", "0.0499 microns per pixel but the objective is 20x"),
        ("0.01", None, "implausible"),
        ("4.99", "20", "but the objective is 20x"),
    ],
)
def test_an_impossible_resolution_is_refused_with_its_cure(mpp: str, power: str | None, words: str) -> None:
    found = resolution_of(properties(mpp, power))
    assert isinstance(found, NoResolution)
    assert words in found.reason
    assert "manifest column mpp or as data.resolution=" in found.reason


def test_a_doubler_behind_the_objective_is_no_conflict() -> None:
    assert isinstance(resolution_of(properties("0.2325", "20")), Resolution)


def test_objective_power_alone_gives_no_resolution() -> None:
    found = resolution_of({"openslide.objective-power": "20"})
    assert isinstance(found, NoResolution)
    assert "no microns per pixel" in found.reason


def test_vendor_keys_and_tiff_tags_stand_in_and_are_named() -> None:
    assert resolution_of({"aperio.MPP": "0,25"}) == Resolution(0.25, 0.25, "um", "aperio.MPP")
    tags = {"tiff.XResolution": "40000", "tiff.YResolution": "20000", "tiff.ResolutionUnit": "centimeter"}
    assert resolution_of(tags) == Resolution(0.25, 0.5, "um", "tiff.XResolution")
    assert isinstance(resolution_of({**tags, "tiff.ResolutionUnit": "none"}), NoResolution)
