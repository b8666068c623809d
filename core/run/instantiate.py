"""Objects out of configs: ``_target_`` is the registry, and every one is checked, however deep."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from omegaconf import Container, OmegaConf

from core.run.allowlist import resolve
from core.run.kinds import check_arguments
from core.types import UserError

_SPECIAL = ("_target_", "_partial_", "_args_", "_convert_")


def instantiate(cfg: Any, **kwargs: Any) -> Any:
    """Builds what a config describes, inner parts first; plain lists and dicts stay plain.

    ``_partial_: true`` gives the callable with its arguments bound, ``_args_`` are positional. Hydra's ``_convert_`` is
    ignored: everything is converted.

    Args:
        cfg: a config node, a plain container, or None (gives None).
        kwargs: further arguments of the outermost target, as they are; they win over the config's.

    Raises:
        UserError: a target that is not allowed or not there, or arguments that it does not take or that
            are of another kind.
    """
    where = ""
    if isinstance(cfg, Container):
        where = str(cfg._get_full_key(None) or "")
        cfg = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    if kwargs and not (isinstance(cfg, dict) and "_target_" in cfg):
        raise UserError("there is no _target_ to call", where, "set it to a class or function")
    return _build(cfg, kwargs, where)


def _build(node: Any, extra: dict[str, Any], where: str) -> Any:
    if isinstance(node, list):
        return [_build(item, {}, f"{where}[{number}]") for number, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    values = {
        key: _build(value, {}, f"{where}.{key}" if where else str(key))
        for key, value in node.items()
        if key not in _SPECIAL and key not in extra
    }
    if "_target_" not in node:
        return values
    target = resolve(node["_target_"], f"{where}._target_" if where else "_target_")
    positional = _build(node.get("_args_", []), {}, where)
    arguments = {**values, **extra}
    partial = bool(node.get("_partial_", False))
    _check_arguments(target, positional, arguments, partial, where)
    check_arguments(target, values, where)
    if partial:
        return functools.partial(target, *positional, **arguments)
    return target(*positional, **arguments)


def _check_arguments(target: Any, positional: list[Any], arguments: dict[str, Any], partial: bool, where: str) -> None:
    """A wrong key is the user's mistake; a TypeError from within the call would be ours."""
    try:
        signature = inspect.signature(target)
    except ValueError:
        return  # some callables written in C have none
    try:
        (signature.bind_partial if partial else signature.bind)(*positional, **arguments)
    except TypeError as error:
        known = [name for name, kind in signature.parameters.items() if kind.kind not in (kind.VAR_KEYWORD,)]
        name = f"{target.__module__}.{target.__qualname__}"
        raise UserError(f"{name}: {error}", where, f"its arguments are {', '.join(known)}") from error
