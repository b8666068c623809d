"""``python -m domains.pathology.compare [key=value ...]``: see ``core.run.compare``."""

from __future__ import annotations

import sys

from core.run.entry import main

if __name__ == "__main__":
    sys.exit(main("pathology", "compare"))
