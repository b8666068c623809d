"""The shared core. ``core.load`` and ``core.runs`` are for notebooks; everything else is imported from its room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.run.load import load, runs

__all__ = ["load", "runs"]


def __getattr__(name: str) -> Any:
    # not at import: the command line must answer before pandas and torch are there
    if name in __all__:
        from core.run import load as room

        return getattr(room, name)
    raise AttributeError(f"module 'core' has no attribute '{name}'")
