"""obo-graph JSON (https://github.com/geneontology/obographs), which gives the same terms as the OBO file."""

from __future__ import annotations

import json
import re
from typing import Any

from core.knowledge.terms import Scope, Term

_IRI = re.compile(r"^https?://purl\.obolibrary\.org/obo/([A-Za-z]\w*?)_([^/#]+)$")
_SCOPES: dict[str, Scope] = {
    "hasExactSynonym": "EXACT",
    "hasNarrowSynonym": "NARROW",
    "hasBroadSynonym": "BROAD",
    "hasRelatedSynonym": "RELATED",
}
_ALT_ID = "http://www.geneontology.org/formats/oboInOwl#hasAlternativeId"
_REPLACED_BY = "http://purl.obolibrary.org/obo/IAO_0100001"


def read_obo_json(text: str) -> list[Term]:
    """Classes of an obo-graph document, in the order of the file; properties and individuals are left out.

    Raises:
        ValueError: the text is no JSON, or no obo-graph.
    """
    document = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("graphs"), list):
        raise ValueError("the JSON has no list 'graphs'")
    terms: list[Term] = []
    for graph in document["graphs"]:
        parents: dict[str, dict[str, None]] = {}
        for edge in graph.get("edges") or ():
            if edge["pred"] == "is_a":
                parents.setdefault(curie(edge["sub"]), {})[curie(edge["obj"])] = None
        for node in graph.get("nodes") or ():
            if node.get("type") == "CLASS":
                terms.append(_term(node, tuple(parents.get(curie(node["id"]), ()))))
    return terms


def curie(iri: str) -> str:
    """``http://purl.obolibrary.org/obo/CL_0000000`` as ``CL:0000000``; anything else as it is."""
    return _IRI.sub(r"\1:\2", iri)


def _term(node: dict[str, Any], parents: tuple[str, ...]) -> Term:
    meta = node.get("meta") or {}
    properties = meta.get("basicPropertyValues") or ()
    return Term(
        id=curie(node["id"]),
        name=(node.get("lbl") or "").strip(),
        definition=((meta.get("definition") or {}).get("val") or "").strip(),
        synonyms=tuple(
            (synonym["val"].strip(), _SCOPES.get(synonym.get("pred", ""), "RELATED"))
            for synonym in meta.get("synonyms") or ()
        ),
        parents=parents,
        alt_ids=tuple(item["val"] for item in properties if item["pred"] == _ALT_ID),
        replaced_by=tuple(curie(item["val"]) for item in properties if item["pred"] == _REPLACED_BY),
        obsolete=bool(meta.get("deprecated")),
    )
