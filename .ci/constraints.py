"""Writes constraints.txt, for pip, from the pins of pyproject.toml: ``python .ci/constraints.py``.

To renew the pins: ``uv lock --upgrade``, then put the lines of ``uv export --no-hashes --all-extras --no-emit-project
--no-header --no-annotate`` into ``[tool.uv] constraint-dependencies`` (without torch's nvidia-*, cuda-* and triton,
which torch pins itself, so that a CPU build of torch can be chosen).
"""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def constraints() -> str:
    """The text of constraints.txt."""
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"]
    return "# made from pyproject.toml by .ci/constraints.py\n" + "".join(f"{pin}\n" for pin in pins)


if __name__ == "__main__":
    (ROOT / "constraints.txt").write_text(constraints())
