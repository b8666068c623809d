"""The domains of the suite. None imports another."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _check_core() -> None:
    """With ``python -m`` the working folder comes first: a folder named ``core`` there would be imported for ours."""
    own = Path(__file__).resolve().parents[1]
    spec = importlib.util.find_spec("core")
    places = [] if spec is None else [Path(place).resolve() for place in spec.submodule_search_locations or []]
    if any(place.parent == own for place in places):
        return
    origin = str(places[0]) if places else getattr(spec, "origin", None) or "nowhere"
    message = (
        f"'core' was found in '{origin}' and not beside 'domains' in '{own}'. Rename it, or work in another folder."
    )
    if sys.argv[:1] == ["-m"]:  # python -m domains....: a command, whose user wants no traceback
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(message)


_check_core()
