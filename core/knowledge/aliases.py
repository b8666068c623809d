"""The user's own words for concepts: a table that overrides linking."""

from __future__ import annotations

import csv
from pathlib import Path

from core.knowledge.graph import KnowledgeGraph
from core.types import UserError

NOTHING = -1  # an alias of no concept: the words are used up and mean nothing


def read_aliases(path: Path, graph: KnowledgeGraph) -> list[tuple[str, int]]:
    """(text, concept) of each row of a CSV with columns ``text`` and ``concept``.

    ``concept`` is an id or a name; ``none`` or blank is :data:`NOTHING`. Other columns are ignored.

    Raises:
        UserError: no such file or columns, an unknown concept, or a text with two meanings; with its line.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [column.strip() for column in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(
            f"cannot read the aliases '{path}': {reason}", "knowledge.aliases", "give a CSV file"
        ) from error
    if not {"text", "concept"} <= set(columns):
        raise UserError(f"columns are {', '.join(columns) or 'missing'}; expected text and concept", str(path))
    meaning: dict[str, int] = {}
    for line, row in rows:
        text, wanted = (row["text"] or "").strip(), (row["concept"] or "").strip()
        if not text:
            raise UserError("a row has no text", f"{path}, line {line}")
        try:
            concept = NOTHING if wanted.lower() in ("", "none") else graph.find(wanted)
        except UserError as error:
            raise UserError(error.what, f"{path}, line {line}", error.todo) from error
        if meaning.setdefault(text, concept) != concept:
            raise UserError(f"'{text}' has two meanings", f"{path}, line {line}", "keep one of its rows")
    return list(meaning.items())
