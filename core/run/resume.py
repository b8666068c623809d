"""Going on with a run in place: its own config, and only what cannot change a result may be said anew."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from core.run.literals import escape
from core.types import UserError

FREE = (
    "trainer", "output", "resume", "debug", "dry_run", "allow_failures", "logger", "trivium", "data.workers",
    "data.cache_gib",
)  # fmt: skip


def leaves(cfg: DictConfig, prefix: str = "") -> dict[str, Any]:
    """Resolved values by dotted key; lists and empty mappings are values."""
    flat: dict[str, Any] = {}
    for key, value in OmegaConf.to_container(cfg, resolve=True).items():  # type: ignore[union-attr]
        _flatten(f"{prefix}{key!s}", value, flat)
    return flat


def changed(new: DictConfig, plain: DictConfig) -> list[str]:
    """Keys in which two configs differ: what a user said, as the difference to the config without it."""
    ours, theirs = leaves(new), leaves(plain)
    return [key for key in ours if key not in theirs or ours[key] != theirs[key]]


def resumed_config(saved: DictConfig, new: DictConfig, keys: list[str]) -> DictConfig:
    """The saved config with the free keys of the new one.

    Args:
        saved: of the run.
        new: as composed now.
        keys: which of the new config's keys count.

    Raises:
        UserError: another of these keys has not the value it had.
    """
    before, now = leaves(saved), leaves(new)
    result = saved.copy()
    for key in keys:
        if any(key == free or key.startswith(free + ".") for free in FREE):
            with open_dict(result):
                OmegaConf.update(result, key, escape(now[key]), merge=False, force_add=True)
        elif key not in before or before[key] != now[key]:
            raise UserError(
                f"{key} was {before.get(key)!r} in that run and is {now[key]!r} now",
                key,
                f"leave it as it was (only {', '.join(FREE)} may change), or start a new run without resume=",
            )
    return result


def _flatten(name: str, value: Any, flat: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _flatten(f"{name}.{key}", inner, flat)
    else:
        flat[name] = value
