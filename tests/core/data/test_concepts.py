"""Claims about linking rows of a manifest to a graph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from core.data.concepts import link_labels, link_rows
from core.data.manifest import Manifest
from core.types import UserError

NAMES = {"gland": 0, "tumour": 1, "tumour gland": 2, "stroma": 3}


@dataclass(frozen=True)
class Found:
    start: int
    end: int
    concept: int


class Words:
    """Finds every name as a plain substring: the seam is what is tested here, not the linking."""

    def link(self, text: str) -> list[Found]:
        spans = [(text.find(name), name) for name in NAMES]
        longest = [
            (at, name) for at, name in spans if at >= 0 and not any(name in o and o in text for o in NAMES if o != name)
        ]
        return [Found(at, at + len(name), NAMES[name]) for at, name in longest]


class Ids:
    def index(self, id: str) -> int:
        return {f"X:{number}": number for number in NAMES.values()}[id]


def manifest(folder: Path) -> Manifest:
    for name in "abcd":
        (folder / f"{name}.png").write_text(name)
    (folder / "m.csv").write_text(
        "path,label,caption.1,caption.2,concepts\n"
        "a.png,tumour_gland,a stroma,a gland,\n"
        "b.png,vessel,,,\n"
        "c.png,gland,a stroma,,X:1|X:0\n"
        "d.png,,nothing known,,\n"
    )
    return Manifest.read(folder / "m.csv")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("label", [{2}, set(), {0, 1}, set()]),
        ("caption", [{0, 3}, set(), {0, 1}, set()]),
        ("both", [{0, 2, 3}, set(), {0, 1}, set()]),
    ],
)
def test_a_row_has_the_concepts_of_its_source_and_its_own_column_wins(tmp_path: Path, source, expected) -> None:
    linked = link_rows(manifest(tmp_path), Ids(), Words(), source)
    assert [set(found) for found in linked.sets] == expected
    assert linked.unlinked == ("vessel",)


def test_a_label_that_names_two_things_is_linked_to_neither() -> None:
    assert link_labels(["stroma_and_gland", "the_gland", "tumour gland"], Words()) == {
        "stroma_and_gland": None,
        "the_gland": 0,
        "tumour gland": 2,
    }


def test_an_unknown_id_is_named_with_its_row(tmp_path: Path) -> None:
    path = manifest(tmp_path).path
    path.write_text(path.read_text().replace("X:1|X:0", "X:1|X:77"))
    with pytest.raises(UserError, match=r"no concept 'X:77'.*row 4 \(concepts\)"):
        link_rows(Manifest.read(path), Ids(), Words(), "both")
