"""``python -m domains.pathology.manifest [key=value ...]``: see ``core.run.manifest``."""

from __future__ import annotations

import sys

from core.run.entry import main

if __name__ == "__main__":
    sys.exit(main("pathology", "manifest"))
