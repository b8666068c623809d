"""Keys whose values are plain words: paths, prompts and names reach the config as they were typed.

Hydra's grammar gives meaning to commas, parentheses, quotes, equals signs, braces, tildes and spaces, all of which
occur in file names. So the entry quotes these values before Hydra reads them; such a key therefore never sweeps. A
leading ``[`` makes a list in ``knowledge.path``, ``prompts`` and ``runs``, a leading ``{`` a mapping in
``manifest_options.columns``; an empty value (but for what is asked) and ``null`` mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from core.types import UserError

KEYS = frozenset(
    {
        "run", "encoder", "input", "manifest", "index", "query", "example", "prompts", "out", "runs", "shard", "resume",
        "output.root", "output.id", "knowledge.path", "knowledge.aliases", "bags.features",
    }
)  # fmt: skip
ASKED = ("query", "example")  # an empty one is an empty variable of a shell: without an answer it would go unnoticed
PREFIX = "manifest_options."
LISTS = frozenset({"knowledge.path", "prompts", "runs"})
MAPPING = "manifest_options.columns"


def is_literal(key: str) -> bool:
    """Whether the value of a key is taken as it stands."""
    return key in KEYS or key.startswith(PREFIX)


def quote(arguments: Sequence[str]) -> list[str]:
    """Arguments as Hydra must see them: literal values quoted, everything else untouched.

    Raises:
        UserError: a list or mapping without its end, or nothing to ask for.
    """
    return [_quoted(argument) for argument in arguments]


def override(key: str, value: str) -> str:
    """``key='value'`` in Hydra's grammar."""
    return f"{key}={_text(value)}"


def escape(value: Any) -> Any:
    """Strings (also within containers) as OmegaConf must store them to give them back: ``${`` is no interpolation."""
    if isinstance(value, dict):
        return {key: escape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escape(inner) for inner in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"(\\*)\$\{", lambda found: found.group(1) * 2 + r"\${", value)


def items(value: str) -> list[str]:
    """The items of ``[a, b]``; quotes and brackets keep the commas within. Anything else is one item.

    Raises:
        UserError: it begins with a bracket and does not end with one.
    """
    if not value.startswith("["):
        return [value]
    return [_bare(part) for part in _split(value, "]")]


def _quoted(argument: str) -> str:
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    if not equals or not is_literal(name):
        return argument
    if name in ASKED and not value.strip():
        raise UserError(f"{name} is empty", todo=f"say what to look for, or leave {name}= out")
    if value in ("", "null"):
        return f"{key}=null"
    if name in LISTS and value.startswith("["):
        return f"{key}=[{','.join(_text(item) for item in items(value))}]"
    if name == MAPPING and value.startswith("{"):
        return f"++{name}={{{','.join(_pair(part) for part in _split(value, '}'))}}}"
    if name.startswith(MAPPING + "."):
        return "++" + override(name, value)  # a column that the mapping does not have yet is a new key
    return override(key, value)


def _pair(part: str) -> str:
    ours, colon, theirs = part.partition(":")
    if not colon:
        raise UserError(f"'{part.strip()}' in {MAPPING} has no colon", todo="write {path: file, group: patient_id}")
    return f"{_bare(ours)}: {_text(_bare(theirs))}"  # the grammar quotes no keys, and ours need none


def _text(value: str) -> str:
    """A quoted string of Hydra's grammar: a quote, and every backslash before one, is escaped."""
    escaped = re.sub(r"(\\*)'", lambda found: found.group(1) * 2 + r"\'", escape(value))
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{chr(92) * trailing}'"


def _split(value: str, closing: str) -> list[str]:
    """What commas separate between the outer brackets, but not within quotes or further brackets."""
    if not value.endswith(closing) or len(value) < 2:
        raise UserError(f"'{value}' begins with '{value[0]}' and has no '{closing}' at its end")
    parts, mark, depth = [""], "", 0
    for letter in value[1:-1]:
        if mark:
            mark = "" if letter == mark else mark
        elif letter in "'\"" and (not parts[-1].strip() or parts[-1].rstrip().endswith(":")):
            mark = letter  # an apostrophe within a word is no quote
        elif letter == "," and depth == 0:
            parts.append("")
            continue
        depth = max(0, depth + (letter in "([{") - (letter in ")]}")) if not mark else depth
        parts[-1] += letter
    return [part for part in parts if part.strip()]


def _bare(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
