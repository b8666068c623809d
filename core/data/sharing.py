"""Data that may not be shared: what leaves the run names nothing."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from core.files import cache_dir
from core.types import UserError

OPAQUE = ("id", "group", "unit")  # kept, because items must be paired and resampled, but as opaque names
KEY_BYTES = 32
OPEN, RESTRICTED = "open", "restricted"
WITHHELD = "restricted data: texts, images, ids and paths are withheld"


def is_restricted(value: str) -> bool:
    """What ``data.sharing`` says.

    Raises:
        UserError: it is neither open nor restricted: a word that is not understood must not open anything.
    """
    if value not in (OPEN, RESTRICTED):
        raise UserError(f"data.sharing is '{value}'", "data.sharing", f"choose {OPEN} or {RESTRICTED}")
    return value == RESTRICTED


def sharing_key() -> bytes:
    """The secret under which ids become opaque, [32] bytes: made once, ``sharing.key`` in the user's cache folder.

    Ids are few and often guessable, so anything a run writes down beside them (the manifest's hash, a salt) would let
    whoever has the run try them all. The key is in no run. Runs of one user on one machine share it, and so do their
    opaque names: ``compare`` pairs them. Without it (a new machine, an emptied cache) names come out anew.

    Raises:
        UserError: it cannot be read or made, is no key, or others can read it.
    """
    path = cache_dir() / "sharing.key"
    try:
        if not path.exists():
            _make(path)
        key = path.read_bytes()
        others = os.name == "posix" and path.stat().st_mode & 0o077
    except OSError as error:
        raise UserError(f"the key of restricted data cannot be used: {error.strerror or error}", str(path),
                        "set TRIVIUM_CACHE to a folder of your own") from error  # fmt: skip
    if len(key) != KEY_BYTES:
        raise UserError(f"the key of restricted data has {len(key)} bytes and not {KEY_BYTES}", str(path),
                        "remove it: a new one is made, and opaque names come out anew")  # fmt: skip
    if others:
        raise UserError("the key of restricted data can be read by others", str(path), "make it yours alone: chmod 600")
    return key


def _make(path: Path) -> None:
    """Writes a new key for its owner alone, whole, unless another process was first: a link never replaces a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{secrets.token_hex(8)}.key")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(handle)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def opaque(value: str, key: bytes) -> str:
    """A name that cannot be traced back without the key (HMAC-SHA-256, 64 bits of it); equal values stay equal."""
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:16]


def redact(frame: pd.DataFrame, key: bytes, keep: Sequence[str] = ("split", "label")) -> pd.DataFrame:
    """A table for a report of restricted data.

    ``id``, ``group`` and ``unit`` become opaque; truth values, fractional numbers and the columns in ``keep`` stay.
    Everything else is dropped: text, and integers as well, since a record number is one.

    Args:
        frame: items of an evaluation or rows of a manifest.
        key: of :func:`sharing_key`, never written to an output.
        keep: harmless columns: class names, splits, what an evaluator counted.
    """
    kept = {}
    for name in frame.columns:
        column = frame[name]
        if name in OPAQUE:
            kept[name] = column.map(lambda value: opaque(str(value), key)).astype(object)
        elif name in keep or pd.api.types.is_bool_dtype(column) or pd.api.types.is_float_dtype(column):
            kept[name] = column
    return pd.DataFrame(kept, index=frame.index)
