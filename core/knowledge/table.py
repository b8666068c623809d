"""Taxonomies as a table: one row a concept, lists separated by ``|``.

Columns: ``id`` (else the name is the id), ``name`` or ``label``, ``parent`` (ids or names), ``synonyms``,
``definition``; other columns are ignored. ROBOT templates are read too: their second header row is left out.
"""

from __future__ import annotations

import csv
import io

from core.knowledge.terms import Term

_NAMES = {"label": "name", "parents": "parent", "synonym": "synonyms", "def": "definition"}


def read_table(text: str) -> list[Term]:
    """Terms of a CSV taxonomy, in the order of the file.

    A parent may be given by id or by name. Without a column ``id``, a parent that has no row of its own is a concept
    all the same, because its name is all there is to say; with ids it is a dangling parent.

    Raises:
        ValueError: no column for the name, or a row without id or name; with its line.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = [(column or "").strip().lower() for column in reader.fieldnames or ()]
    reader.fieldnames = [_NAMES.get(column, column) for column in header]
    if "name" not in reader.fieldnames:
        raise ValueError(f"columns are {', '.join(header) or 'missing'}; expected id, name, parent, synonyms")
    with_id = "id" in reader.fieldnames
    rows: list[tuple[int, dict[str, str]]] = []
    for number, row in enumerate(reader):
        cells = {key: (value or "").strip() for key, value in row.items() if isinstance(value, str)}
        robot = number == 0 and cells.get("id") == "ID"
        if any(cells.values()) and not robot:
            rows.append((reader.line_num, cells))
    terms: list[Term] = []
    ids = {cells["name"]: cells["id"] for _, cells in rows if cells.get("name")} if with_id else {}
    ids |= {id: id for id in ids.values()}  # where a name is another concept's id, the id is meant
    for line, cells in rows:
        id = cells.get("id", "") if with_id else cells.get("name", "")
        if not id or not cells.get("name"):
            raise ValueError(f"line {line} has no {'name' if id else 'id'}")
        parents = tuple(dict.fromkeys(ids.get(parent, parent) for parent in _list(cells.get("parent", ""))))
        synonyms = tuple((synonym, "EXACT") for synonym in _list(cells.get("synonyms", "")))
        terms.append(Term(id, cells["name"], cells.get("definition", ""), synonyms, parents))  # type: ignore[arg-type]
    if not with_id:
        known = {term.id for term in terms}
        above = dict.fromkeys(parent for term in terms for parent in term.parents if parent not in known)
        terms += [Term(parent, parent) for parent in above]
    return terms


def _list(cell: str) -> list[str]:
    return [part.strip() for part in cell.split("|") if part.strip()]
