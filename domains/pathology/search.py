"""``python -m domains.pathology.search [key=value ...]``: see ``core.run.search``."""

from __future__ import annotations

import sys

from core.run.entry import main

if __name__ == "__main__":
    sys.exit(main("pathology", "search"))
