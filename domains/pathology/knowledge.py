"""``python -m domains.pathology.knowledge [key=value ...]``: see ``core.run.knowledge``."""

from __future__ import annotations

import sys

from core.run.entry import main

if __name__ == "__main__":
    sys.exit(main("pathology", "knowledge"))
