"""``python -m domains.pathology.evaluate [key=value ...]``: see ``core.run.evaluate``."""

from __future__ import annotations

import sys

from core.run.entry import main

if __name__ == "__main__":
    sys.exit(main("pathology", "evaluate"))
