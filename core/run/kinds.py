"""Whether a value of a config is of the kind that is meant: a number, a word, a list, a mapping.

Arguments of a ``_target_`` are held to their annotations, keys of the config itself to :data:`PLAIN`. Only builtin
kinds are looked at; whatever else an annotation names is the business of what is called.
"""

from __future__ import annotations

import inspect
from collections import abc
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from core.types import UserError

PLAIN: Mapping[str, Any] = {
    "seed": int,
    "updaters": abc.Mapping,  # empty by default: of a mapping with keys Hydra refuses a single value itself
    "data.batch_size": int,
    "data.workers": int,
    "data.cache_gib": float,
}
OWN = ("core", "domains")
_BELOW = {"updaters": "a part: +updater@updaters.ema=ema"}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "null"}
_LISTS, _MAPPINGS = (list, tuple, abc.Sequence), (dict, abc.Mapping)


def check_plain(cfg: DictConfig) -> None:
    """Holds those keys of :data:`PLAIN` that a config has to it.

    Raises:
        UserError: names a key whose value is of another kind.
    """
    for key, kind in PLAIN.items():
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if not isinstance(node, DictConfig) or name not in node or OmegaConf.is_interpolation(node, name):
            continue
        if not _fits(node[name], kind):
            raise _wrong(key, node[name], _BELOW.get(key) or _words(kind))


def check_arguments(target: Any, values: Mapping[str, Any], where: str) -> None:
    """Holds arguments to the annotations of what they are given to.

    Args:
        target: a class or function.
        values: by name, as a config has them or already built.
        where: key of the node they stand in.

    Raises:
        UserError: names a key whose value is of another kind.
    """
    if str(getattr(target, "__module__", "")).partition(".")[0] not in OWN:
        return
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:
        return  # some callables written in C have none
    named = getattr(target.__init__ if inspect.isclass(target) else target, "__globals__", {})
    for name, value in values.items():
        kind = _kind(parameters[name].annotation, named) if name in parameters else Any
        if not _fits(value, kind):
            raise _wrong(f"{where}.{name}" if where else name, value, _words(kind))


def _wrong(key: str, value: Any, wanted: str) -> UserError:
    shown = "null" if value is None else f"'{value}'" if isinstance(value, str) else value
    return UserError(f"{key} is {shown}", todo=f"give {wanted}")


def _kind(annotation: Any, named: dict[str, Any]) -> Any:
    """What an annotation says; Any for one with names that only a type checker imports."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, named)
    except (NameError, AttributeError, TypeError):
        return Any


def _fits(value: Any, kind: Any) -> bool:
    if not isinstance(value, NoneType | str | int | float | Mapping | Sequence):
        return True  # a part that was built
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin in _LISTS:
        one = inner[0] if inner and (len(inner) == 1 or inner[1] is Ellipsis or origin is not tuple) else Any
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(item, one) for item in value)
    if origin in _MAPPINGS:
        return isinstance(value, Mapping)
    if origin is float or origin is int:
        return isinstance(value, (int, float) if origin is float else int) and not isinstance(value, bool)
    if origin is str:  # a number is a text too: a column may be called 1
        return isinstance(value, str | int | float)
    return isinstance(value, origin) if origin in (bool, NoneType) else True


def _words(kind: Any) -> str:
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_words, inner)))
    if origin in _LISTS:
        return f"a list: [{_words(inner[0])}, ...]" if inner and inner[0] in _WORDS else "a list: [...]"
    return "a mapping: {key: value}" if origin in _MAPPINGS else _WORDS.get(origin, str(origin))
