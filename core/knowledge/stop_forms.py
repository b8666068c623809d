"""Forms that name a concept and yet mean nothing in a text; an alias can bring any of them back."""

from __future__ import annotations

from core.knowledge.normalise import compact, key

SHORTEST = 3  # letters and digits of the shortest form that is linked
ACRONYM = 6  # a longer form in capitals is an ordinary word written large

_STOP = """a about above after again all also am an and any are as at be because been before being below between both
but by can could did do does down during each few for from further had has have having he her here hers him his how i if
in into is it its just may me might more most must my no none nor not of off on once one only or other our out over own
same she should so some such than that the their them then there these they this those through to too two under until up
us very was we were what when where which while who whom whose why will with within without would you your"""

# upper words of ontologies that any caption may hold
_GENERIC = """abnormality attribute body case cell condition disease disorder entity feature finding form group image
material normal object organ organism part patient phenotype picture process quality region role sample section site
slide specimen structure substance subtype syndrome system thing tissue type unknown"""

STOP_KEYS = frozenset(key(word) for word in (_STOP + " " + _GENERIC).split())


def is_acronym(form: str) -> bool:
    """Whether a form counts only in its own case: one short word with two capitals or more (ALL, HIV, B-ALL, mRNA)."""
    letters = compact(form)
    return len(letters) <= ACRONYM and " " not in form.strip() and sum(map(str.isupper, letters)) >= 2


def is_stop_form(form: str, keys: list[str]) -> bool:
    """Whether a form is too short, or all stop and generic words (an acronym is judged by its length alone)."""
    if len(compact(form)) < SHORTEST:
        return True
    return not is_acronym(form) and all(word in STOP_KEYS for word in keys)
