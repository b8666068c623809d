"""``python -m domains.pathology.predict [key=value ...]``: see ``core.run.predict``."""

from __future__ import annotations

import sys

from core.run.entry import main

if __name__ == "__main__":
    sys.exit(main("pathology", "predict"))
