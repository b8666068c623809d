"""OBO files, parsed by obonet: the one parser that reads current Cell Ontology, ENVO and Uberon files."""

from __future__ import annotations

import io
import re

import obonet

from core.knowledge.terms import SCOPES, Scope, Term

# the clauses a graph is made of; the others are not even parsed, so that none of them can break the reading
_CLAUSES = ("id", "name", "def", "synonym", "is_a", "alt_id", "replaced_by", "is_obsolete")
_WANTED = tuple(f"{clause}:" for clause in _CLAUSES)
_TERM = re.compile(r"^\[Term\]", re.MULTILINE)
_MARK = "namespace"
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"?')
_SCOPE = re.compile(r"\s*(" + "|".join(SCOPES) + r")\b")
_ESCAPE = re.compile(r"\\(.)")
_SPECIAL = {"n": "\n", "t": "\t", "W": " "}


def read_obo(text: str) -> list[Term]:
    """Terms of an OBO document, live and obsolete, in the order of the file.

    Raises:
        ValueError: there is no ``[Term]``, or a line is not ``tag: value``.
    """
    first = _TERM.search(text)
    if first is None:
        raise ValueError("it has no [Term] stanza")
    graph = obonet.read_obo(io.StringIO(_prepare(text[first.start() :])), ignore_obsolete=False)
    parents: dict[str, list[str]] = {}
    for child, parent, relation in graph.edges(keys=True):
        if relation == "is_a":
            parents.setdefault(child, []).append(parent)
    return [_term(id, data, tuple(parents.get(id, ()))) for id, data in graph.nodes(data=True) if _MARK in data]


def _prepare(text: str) -> str:
    r"""The document as obonet expects it: one blank line before each stanza and nowhere else.

    obonet takes what follows a blank line for a new stanza and chokes on a stanza without one. It also cuts a line at
    the first `` !`` even within quotes, where OBO's own escape ``\!`` keeps it.
    """
    lines = ["ontology: any"]  # obonet warns of a header without it
    for line in text.split("\n"):
        if line.startswith("["):
            # the mark tells a stanza from a node that obonet makes for an is_a target alone
            lines += ["", line, f"{_MARK}: stanza"]
        elif line.startswith(_WANTED):
            quoted = _QUOTED.search(line) if " !" in line and '"' in line else None
            if quoted:
                line = line[: quoted.start()] + quoted[0].replace(" !", r" \!") + line[quoted.end() :]
            lines.append(line)
    return "\n".join(lines)


def _term(id: str, data: dict[str, list[str] | str], parents: tuple[str, ...]) -> Term:
    def listed(key: str) -> list[str]:
        value = data.get(key, [])
        return value if isinstance(value, list) else [value]

    def single(key: str) -> str:
        return next(iter(listed(key)), "")

    quoted = _QUOTED.search(single("def"))
    return Term(
        id=id,
        name=_plain(single("name")),
        definition=_plain(quoted[1]) if quoted else _plain(single("def")),
        synonyms=tuple(_synonym(value) for value in listed("synonym")),
        parents=parents,
        alt_ids=tuple(listed("alt_id")),
        replaced_by=tuple(listed("replaced_by")),
        obsolete=single("is_obsolete") == "true",
    )


def _synonym(value: str) -> tuple[str, Scope]:
    quoted = _QUOTED.search(value)
    if quoted is None:
        return _plain(value), "RELATED"
    scope = _SCOPE.match(value, quoted.end())
    return _plain(quoted[1]), scope[1] if scope else "RELATED"  # type: ignore[return-value]


def _plain(value: str) -> str:
    r"""Text without OBO escapes: ``\"`` is a quote, ``\,`` a comma."""
    return _ESCAPE.sub(lambda match: _SPECIAL.get(match[1], match[1]), value).strip() if "\\" in value else value
