"""Which objects a ``_target_`` may name: a config is data, and data must not call anything it likes.

The name is checked before anything is imported, and the *resolved* object again by its own module and name, so that an
alias (``core.files.os.system``) is what it is. Widened by ``trivium.allow=[mylab]`` on the command line or
``TRIVIUM_ALLOW=mylab,other`` in the environment, never by a file.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from core.types import UserError

OURS = ("core", "domains")
NOT_TARGETS = ("core.run", "core.files")  # they write files and run verbs
THIRD_PARTY = ("torch.nn.modules", "torch.optim")  # constructors of layers and optimisers
CALLABLES = frozenset({("timm.models._factory", "create_model")})

_widened: ContextVar[tuple[str, ...]] = ContextVar("widened", default=())


@contextmanager
def allowing(packages: Sequence[str]) -> Iterator[None]:
    """Widens the list within the block, beside ``TRIVIUM_ALLOW``."""
    token = _widened.set((*_widened.get(), *packages))
    try:
        yield
    finally:
        _widened.reset(token)


def allowed() -> tuple[str, ...]:
    """Packages whose objects may be named, third-party ones aside."""
    variable = os.environ.get("TRIVIUM_ALLOW", "")
    return (*OURS, *_widened.get(), *(name.strip() for name in variable.split(",") if name.strip()))


def check_name(name: str, where: str = "") -> None:
    """The part of the check that needs no import.

    Raises:
        UserError: no object of that name can be allowed.
    """
    private = not isinstance(name, str) or any(not part or part.startswith("_") for part in name.split("."))
    if private or not _within(name, (*allowed(), *(part.partition(".")[0] for part in THIRD_PARTY), "timm")):
        raise _refused(str(name), str(name), where)


def resolve(name: str, where: str = "") -> Any:
    """The callable a ``_target_`` names.

    Raises:
        UserError: it is not allowed, does not exist, or is no callable.
    """
    check_name(name, where)
    found = _locate(name, where)
    module, own = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if not callable(found) or not isinstance(module, str) or not isinstance(own, str):
        raise _refused(name, type(found).__name__, where)
    ours = _within(module, allowed()) and not _within(module, NOT_TARGETS)
    if not ours and not _within(module, THIRD_PARTY) and (module, own) not in CALLABLES:
        raise _refused(name, f"{module}.{own}", where)
    return found


def _locate(name: str, where: str) -> Any:
    """Imports the longest part of a name that is a module and takes the rest as attributes."""
    parts = name.split(".")
    found, taken = importlib.import_module(parts[0]) if importlib.util.find_spec(parts[0]) else None, 1
    if found is None:
        raise _absent(name, parts[0], where)
    for part in parts[1:]:
        if hasattr(found, part):
            found = getattr(found, part)
        else:
            module = ".".join(parts[: taken + 1])
            try:
                found = importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name is not None and not _within(module, (error.name,)):
                    raise  # a library that the module itself needs
                raise _absent(name, module, where) from error
        taken += 1
    return found


def _within(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def _refused(name: str, really: str, where: str) -> UserError:
    alias = "" if really == name else f", which is {really},"
    root = name.partition(".")[0]
    return UserError(
        f"_target_ {name}{alias} is not on the list of what a config may call",
        where,
        f"if you trust it, allow its package on the command line: trivium.allow=[{root}]"
        if root not in OURS
        else "name a class or function of the suite, or widen the list with trivium.allow=[...]",
    )


def _absent(name: str, part: str, where: str) -> UserError:
    return UserError(f"_target_ {name} does not exist: there is no '{part}'", where, "correct the name")
