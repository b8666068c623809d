"""Whether a text denies what it mentions: "no tumour", "negative for malignancy", "an adenoma was not seen"."""

from __future__ import annotations

import re

_GAP = r"[^\w.,;:!?]+"  # between words of one clause
_IN_LIST = r"[^\w.;:!?]+"  # of one sentence
_END = r"but|however|except|although|though|apart|aside|which|with"  # what follows is no longer denied
_WITHOUT = r"(?<!\bwith and )(?<!\bwith or )without"  # "with and without" says both
_DENIAL = (
    rf"no|not|{_WITHOUT}|never|neither|nor|denies|denied|lacks?|lacking|(?:absence|free){_GAP}of|negative{_GAP}for"
)
_HARMLESS = r"only|necessarily|doubt|longer|increased?|changed?|significant"  # "no doubt", "not only"


def _before(gap: str) -> re.Pattern[str]:
    words = rf"(?:{gap}(?!(?:{_END})\b)\w+){{0,5}}"
    return re.compile(rf"\b(?:{_DENIAL})\b(?!{gap}(?:{_HARMLESS})\b){words}{gap}$", re.IGNORECASE)


_BEFORE, _LISTED, _OR = _before(_GAP), _before(_IN_LIST), re.compile(r"[^.;:!?]*\bn?or\b", re.IGNORECASE)
_AFTER = re.compile(
    rf"(?:{_GAP}(?:is|are|was|were|has|have|had|been|be|can|could|being)\b){{0,3}}{_GAP}"
    rf"(?:absent|excluded|ruled{_GAP}out|not{_GAP}(?:seen|identified|present|found|detected|evident))\b",
    re.IGNORECASE,
)


def is_denied(text: str, start: int, end: int) -> bool:
    """Whether ``text[start:end]`` is denied by words around it, in its own sentence.

    After NegEx (Chapman et al. 2001, doi:10.1006/jbin.2001.1029): a denial reaches five words ahead, up to a word such
    as "but"; some phrases that look like one are none. It reaches over a comma where there is an "or": "no atypia,
    adenoma or carcinoma", but "no necrosis, a carcinoma". English alone.
    """
    if _BEFORE.search(text, 0, start) or _AFTER.match(text, end):
        return True
    listed = _LISTED.search(text, 0, start)
    return listed is not None and _OR.match(text, listed.start()) is not None
