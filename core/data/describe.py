"""What a person should see of the data before training starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from core.data.audit import Finding
from core.data.columns import SPLITS
from core.data.concepts import RowConcepts
from core.data.manifest import Manifest
from core.types import Fate

LARGEST = 8


def describe(
    manifest: Manifest,
    findings: Sequence[Finding] = (),
    fates: Sequence[Fate] = (),
    concepts: RowConcepts | None = None,
    group: np.ndarray | None = None,
    group_names: Sequence[str] = (),
    sharing: str = "open",
    console: Console | None = None,
) -> None:
    """Prints the splits by class, notes and findings, refused files, linking coverage and the largest groups.

    Args:
        manifest: with splits.
        findings: of the audit.
        fates: of the files.
        concepts: of the rows.
        group: of each row, [N] int64.
        group_names: by group number.
        sharing: "restricted" leaves out everything that quotes the data: examples, paths, names of groups.
        console: where to print.
    """
    console = console or Console()
    restricted = sharing == "restricted"
    console.print(split_table(manifest))
    for note in manifest.notes:
        console.print(note.partition(":")[0] if restricted else note, markup=False)
    for finding in findings:
        if finding.severity != "info":
            console.print(finding.line(restricted), markup=False)
    bad = [fate for fate in fates if fate.status != "ok"]
    if bad:
        console.print(f"{len(bad)} of {len(fates)} files are refused or partial", markup=False)
        for fate in [] if restricted else bad[:LARGEST]:
            console.print(f"  {fate.path}: {fate.status}, {fate.reason}", markup=False)
    if concepts is not None:
        console.print(linking_line(concepts), markup=False)
    if group is not None and len(group):
        console.print(group_table(group, () if restricted else group_names))


def split_table(manifest: Manifest) -> Table:
    """Pictures by class and split, and groups by split."""
    frame = manifest.frame[manifest.frame["path"].notna()]
    table = Table("class", *SPLITS, "all", title="pictures")
    labels = sorted(set(frame["label"].dropna()))
    for label in labels:
        part = frame[frame["label"] == label]
        table.add_row(label, *(str(int((part["split"] == name).sum())) for name in SPLITS), str(len(part)))
    for name, counts in (
        ("all", [int((frame["split"] == split).sum()) for split in SPLITS] + [len(frame)]),
        (
            "groups",
            [frame["group"][frame["split"] == split].nunique() for split in SPLITS] + [frame["group"].nunique()],
        ),
    ):
        table.add_row(name, *map(str, counts), style="bold")
    return table


def linking_line(concepts: RowConcepts) -> str:
    """One sentence on how much of the data is linked to the graph."""
    linked = sum(1 for found in concepts.sets if found)
    distinct = len(set().union(*concepts.sets)) if concepts.sets else 0
    text = f"linked: {linked} of {len(concepts.sets)} rows, {distinct} concepts"
    if concepts.unlinked:
        text += f"; classes without a concept: {', '.join(concepts.unlinked)}"
    return text


def group_table(group: np.ndarray, names: Sequence[str]) -> Table:
    """The largest knowledge groups."""
    counts = Counter(group.tolist())
    several = sum(1 for count in counts.values() if count > 1)
    table = Table("group", "rows", title=f"largest of {len(counts)} groups ({several} with more than one row)")
    for number, count in counts.most_common(LARGEST):
        table.add_row(names[number] if number < len(names) else f"group {number}", str(count))
    return table
