"""What the labels of the training bags cannot teach, looked for before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from core.data.audit import Finding
from core.mil.labels import FINDING


def teachable(labels: Mapping[str, np.ndarray], classes: Sequence[str]) -> list[Finding]:
    """One class alone is refused; a class or grade that is nowhere, and a finding that never varies, are warned of.

    Args:
        labels: by column, of the training bags (:func:`core.mil.labels.bag_labels`).
        classes: names of the classes of the columns, in the order of their numbers; empty where they hold none.
    """
    found = []
    for column, values in labels.items():
        known = set(values[values >= 0].tolist()) if classes or column.startswith(FINDING) else set()
        if classes and len(known) == 1:
            message = f"every training bag with a {column} is '{classes[known.pop()]}'"
            todo = "give bags of a second class, another split, or another column by bags.columns"
            found.append(Finding("refuse", "one_class", message, (), todo))
        elif classes and known:
            absent = tuple(name for number, name in enumerate(classes) if number not in known)
            if absent:
                message = f"no training bag has the {column} {', '.join(absent)}"
                found.append(Finding("warn", "absent_class", message, absent))
        elif len(known) == 1:
            name = column.removeprefix(FINDING)
            every = "every training bag has" if known.pop() else "no training bag has"
            found.append(Finding("warn", "constant_finding", f"{every} the finding {name}", (name,)))
    return found
