"""Words as the linker compares them: without case, accents, possessives, number and British spelling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

HARD = "|"  # stands between two words that a comma, a bracket or the end of a sentence divides

# letters and digits with their combining marks and invisible joiners, and apostrophes within a word
_WORD = re.compile("[^\\W_](?:[^\\W_]|[\u0300-\u036f\u00ad\u200b-\u200d]|['\u2019\u02bc](?=[^\\W_]))*")
_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200d]")
_POSSESSIVE = re.compile(r"['\u2019\u02bc](?:s|S)?$")
_APOSTROPHE = re.compile(r"['\u2019\u02bc]")
_HYPHEN = re.compile(r"[-\u2010-\u2013\u2212]")
_HARD = re.compile(r"[,()\[\]{}\"\u201c\u201d]|[.;:!?](?=\s|$)")

# plurals that no ending gives away
_IRREGULAR = {
    "apices": "apex", "appendices": "appendix", "calyces": "calyx", "cervices": "cervix", "children": "child",
    "corpora": "corpus", "cortices": "cortex", "criteria": "criterion", "femora": "femur", "feet": "foot",
    "foramina": "foramen", "ganglia": "ganglion", "genera": "genus", "indices": "index", "lumina": "lumen",
    "matrices": "matrix", "meninges": "meninx", "mice": "mouse", "mitochondria": "mitochondrion", "pelves": "pelvis",
    "phalanges": "phalanx", "teeth": "tooth", "testes": "testis", "varices": "varix", "vertices": "vertex",
    "viscera": "viscus",
}  # fmt: skip


@dataclass(frozen=True)
class Token:
    """One word of a text."""

    start: int  # characters of the original text
    end: int
    key: str  # what is compared
    hyphen: bool  # joined to the next word by a hyphen
    hard: bool  # divided from the next word by a comma, a bracket or the end of a sentence


def tokens(text: str) -> list[Token]:
    """Words of a text with their places in it; spaces, slashes and underscores divide words and say nothing else."""
    found = list(_WORD.finditer(text))
    result = []
    for number, match in enumerate(found):
        gap = text[match.end() : found[number + 1].start()] if number + 1 < len(found) else ""
        hyphen = len(gap) == 1 and _HYPHEN.match(gap) is not None
        hard = not hyphen and gap not in ("", " ") and _HARD.search(gap) is not None
        result.append(Token(match.start(), match.end(), key(match[0]), hyphen, hard))
    return result


def joined(text: str, words: list[Token]) -> Iterator[tuple[int, int, str]]:
    """Hyphenated words written as one: (first token, one past the last, key), "non-small" as "nonsmall"."""
    for first in range(len(words)):
        last = first
        while words[last].hyphen:
            last += 1
            yield first, last + 1, key(_HYPHEN.sub("", text[words[first].start : words[last].end]))


def compact(text: str) -> str:
    """Letters and digits alone, their case kept: how acronyms are compared."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", text) if letter.isalnum())


@lru_cache(maxsize=200_000)  # a pure function of few distinct words: ten times the speed over many captions
def key(word: str) -> str:
    """The form under which a word is compared; a stem, not always a word.

    Both the graph and the texts pass through here, so it need only bring together what is the same.
    """
    word = _APOSTROPHE.sub("", _POSSESSIVE.sub("", _INVISIBLE.sub("", word)))
    if not word.isascii():
        word = "".join(map(_latin, word))
        word = "".join(letter for letter in unicodedata.normalize("NFKD", word) if not unicodedata.combining(letter))
    return _singular(word.casefold())


def _latin(letter: str) -> str:
    """Greek letters by name (beta cell), everything else as it is."""
    name = unicodedata.name(letter, "")
    return name.rsplit(" ", 1)[1].lower() if re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER \w+", name) else letter


def _singular(word: str) -> str:
    """Without the plural endings of English and of medical Latin; tumour is tumor, oedema is edema."""
    if len(word) <= 3 or not word.isalpha():
        return word
    word = _IRREGULAR.get(word, word)
    if word.endswith("mata"):
        word = word[:-2]
    elif word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith("ae") and not word.endswith("iae"):  # Streptococcus pneumoniae is no pneumonia
        word = word[:-1]
    elif word.endswith(("sis", "ses", "xes", "zes", "ches", "shes")):
        word = word[:-2]  # metastasis and metastases meet at metastas, disease and diseases at diseas
    elif word.endswith("se"):
        word = word[:-1]
    elif word.endswith("um"):
        word = word[:-2] + "a"
    elif word.endswith("i") and len(word) > 4:
        word = word[:-1] + "us"
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if word.endswith("our") and len(word) > 4:
        word = word[:-2] + "r"
    return word.replace("ae", "e").replace("oe", "e")
