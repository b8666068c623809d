"""Keys whose values are plain words: paths, prompts and names reach the config as they were typed.

Hydra's grammar gives meaning to commas, parentheses, quotes, equals signs, braces, tildes and spaces, all of which
occur in file names. So the entry quotes these values before Hydra reads them; such a key therefore never sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence

KEYS = frozenset(
    {
        "run", "input", "manifest", "query", "prompts", "out", "runs", "shard", "resume",
        "output.root", "output.id", "knowledge.path", "knowledge.aliases", "knowledge.link", "knowledge.show",
        "manifest_options.pattern", "manifest_options.root", "manifest_options.table", "manifest_options.on",
    }
)  # fmt: skip
LISTS = frozenset({"knowledge.path", "prompts", "runs"})  # a leading [ makes a list
PATHS = ("input", "manifest", "manifest_options.root", "manifest_options.table", "knowledge.aliases")


def split(argument: str) -> tuple[str, str] | None:
    """(key, value) of a ``key=value`` argument whose value is literal, else None."""
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    return (key, value) if equals and name in KEYS else None


def quote(arguments: Sequence[str]) -> list[str]:
    """Arguments as Hydra must see them."""
    return [_quoted(argument) for argument in arguments]


def items(value: str) -> list[str]:
    """The items of ``[a, b]``; an item in quotes keeps its commas. Anything else is one item."""
    if not (value.startswith("[") and value.endswith("]")):
        return [value]
    parts: list[str] = [""]
    quote_mark = ""
    for letter in value[1:-1]:
        if letter in "\"'" and (letter == quote_mark or (not quote_mark and not parts[-1].strip())):
            quote_mark = "" if quote_mark else letter
        elif letter == "," and not quote_mark:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _quoted(argument: str) -> str:
    literal = split(argument)
    if literal is None:
        return argument
    key, value = literal
    if value == "null":
        return argument
    if key.lstrip("+") in LISTS and value.startswith("[") and value.endswith("]"):
        return f"{key}=[{','.join(_text(item) for item in items(value))}]"
    return f"{key}={_text(value)}"


def _text(value: str) -> str:
    """A quoted string of Hydra's grammar (a quote and the backslashes before it are escaped) that OmegaConf does not
    interpolate."""
    escaped, slashes = "", 0
    for letter in value.replace("${", "\\${"):
        if letter == "'":
            escaped += "\\" * slashes + "\\'"
        else:
            escaped += letter
        slashes = slashes + 1 if letter == "\\" else 0
    return f"'{escaped}{chr(92) * slashes}'"
