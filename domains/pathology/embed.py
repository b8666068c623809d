"""``python -m domains.pathology.embed [key=value ...]``: see ``core.run.embed``."""

from __future__ import annotations

import sys

from core.run.entry import main

if __name__ == "__main__":
    sys.exit(main("pathology", "embed"))
