"""``python -m domains.pathology.tile [key=value ...]``: see ``core.run.tile``."""

from __future__ import annotations

import sys

from core.run.entry import main

if __name__ == "__main__":
    sys.exit(main("pathology", "tile"))
