"""The real slides beside the checkout, where they are there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("TRIVIUM_DATA") or Path(__file__).parents[4] / "shared" / "data")
SLIDES = DATA / "pathology" / "slides"

needs_slides = pytest.mark.skipif(
    not SLIDES.is_dir(), reason=f"real slides are not at {SLIDES}; set TRIVIUM_DATA to the folder that holds pathology/"
)
