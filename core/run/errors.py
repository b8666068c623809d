"""What a person sees when something is wrong: one paragraph, and the exit status."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from typing import TextIO

from core.types import UserError

OK, BUG, USER, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130

_DISK = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR,
}  # fmt: skip

_WANTED = {  # what to give for keys that no default can know
    "bags.classes": "[...]: names of the grades, lowest first",
    "bags.findings": "[a, b] and bags.columns=[label.a, label.b]: names of the findings, and their columns",
    "bags.columns": "[label.a, label.b]: the column of each finding",
}


def explain(error: BaseException) -> UserError | None:
    """The user's mistake behind an error, in our words; None for what is no mistake of the user (a bug of ours).

    Hydra's and OmegaConf's errors are mistakes in keys and values; an operating system's refusal to write is one of
    place. An error that was raised *from* such a one counts as well.
    """
    seen: BaseException | None = error
    while seen is not None:
        known = _explain_one(seen)
        if known is not None:
            return known
        seen = seen.__cause__
    return None


def _explain_one(error: BaseException) -> UserError | None:
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in _DISK:
        return UserError(
            f"cannot use '{error.filename or 'the run folder'}': {error.strerror}",
            todo="free space, or choose another folder with output.root=",
        )
    module = type(error).__module__.partition(".")[0]
    if module not in ("hydra", "omegaconf"):
        return None
    name, text = type(error).__name__, _first_paragraph(str(error))
    if name in ("MissingMandatoryValue", "InterpolationToMissingValueError"):
        key = re.search(r"'?([\w.]+)'?\.?$", text)
        of_error = None if name.startswith("Interpolation") else getattr(error, "full_key", None)  # who refers to it
        full = of_error or (key.group(1) if key else "a key")
        return UserError(f"{full} is not set", todo=f"give {full}={_WANTED.get(full, '...')}")
    if name == "OverrideParseException":
        given = getattr(error, "override", "")
        if "=" not in given:
            return UserError(f"'{given}' is no key=value", todo="put the key and an equals sign before it")
        return UserError(
            f"cannot read '{given}': {text}",
            todo="put a value with special characters in quotes twice: 'key=\"a (b), c\"'",
        )
    ambiguous = re.match(r"Ambiguous value for argument '([^']+)'", text)
    if ambiguous:
        chosen, _, values = ambiguous.group(1).partition("=")
        todo = f"add -m to run each, or give one; a list is written {chosen}=[...] where one is meant"
        return UserError(f"{chosen} has several values: {values}", todo=todo)
    found = re.search(r"Could not find '([^']+)'", text)
    if found:
        options = re.findall(r"^\s+(\S+)\s*$", str(error).partition("Config search path")[0], re.MULTILINE)
        group, _, choice = found.group(1).rpartition("/")
        what = f"{group} has no choice '{choice}'" if group else f"there is no config '{choice}'"
        return UserError(what, todo=f"choose from {', '.join(options)}" if options else "")
    where = getattr(error, "full_key", None) or ""
    return UserError(text, str(where))


def _first_paragraph(text: str) -> str:
    """Hydra appends search paths and hints, OmegaConf the types it met: none of that tells a user what to do."""
    lines = []
    for line in text.strip().splitlines():
        if not line.strip() or re.match(r"\s*(full_key|object_type|reference_type|See https?:)", line):
            break
        lines.append(line.strip())
    return " ".join(lines)


def report(error: BaseException, debug: bool = False, stream: TextIO | None = None) -> int:
    """Prints an error and gives the exit status: 2 for a user's mistake, 1 with the traceback for a bug of ours."""
    stream = stream or sys.stderr
    known = explain(error)
    if known is None or debug:
        traceback.print_exception(error, file=stream)
    if known is None:
        print("This is a defect of trivium, not of your input.", file=stream, flush=True)
        return BUG
    print(f"error: {known}", file=stream, flush=True)
    return USER
