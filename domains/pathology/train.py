"""``python -m domains.pathology.train [key=value ...]``: see ``core.run.train``."""

from __future__ import annotations

import sys

from core.run.entry import main

if __name__ == "__main__":
    sys.exit(main("pathology", "train"))
