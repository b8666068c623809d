"""What a trained run over bags must remember beside its weights to be applied to new bags: ``model.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core.evaluation.tables import write_json
from core.mil.bags import Bag
from core.mil.cohort import Kind, kind_of
from core.mil.texts import Entry
from core.types import UserError

FACTS = "model.json"
SCHEMA_VERSION = 4  # 1 had no vocabulary, 2 neither tile_size nor thresholds, 3 no decision on units


@dataclass(frozen=True)
class Decision:
    """By what is decided, as the evaluation found it; None where it found nothing."""

    threshold: float | None = None  # on the second of two classes
    thresholds: Mapping[str, float | None] = field(default_factory=dict)  # by finding
    cut: float | None = None  # between risk groups


@dataclass(frozen=True)
class Facts:
    """What was found in the training and validation bags, never in the tested ones."""

    width: int  # of the features
    encoder: str  # that made them
    unit: str  # of their coordinates
    classes: tuple[str, ...]  # in the order of their numbers; empty for tasks without
    threshold: float | None  # on the second of two classes, best on the validation bags; None where they had one alone
    cut: float | None  # risks above it are the group "high": the median of the training bags, on the scale below
    risk_scale: tuple[float, float] | None  # mean and deviation of the training bags' risks
    vocabulary: tuple[Entry, ...] = ()  # that bags are asked about; empty for tasks without texts
    tile_size: float | None = None  # usual side of a training tile, in ``unit``; None: an older run did not keep it
    thresholds: Mapping[str, float | None] = field(default_factory=dict)  # by finding, as ``threshold``
    of_units: Decision | None = None  # found on units with several bags; None: on bags, which the three above are of

    @property
    def kind(self) -> Kind:
        """What a bag must be for the run to take it."""
        return self.width, self.encoder, self.unit

    def decision(self, whole: bool) -> Decision:
        """By what is decided on a bag, or on a ``whole`` unit: the mean of its bags."""
        if whole and self.of_units is not None:
            return self.of_units
        return Decision(self.threshold, self.thresholds, self.cut)


def facts_of(
    bag: Bag,
    tile_size: float | None,
    classes: tuple[str, ...],
    details: Mapping[str, Any],
    vocabulary: tuple[Entry, ...] = (),
    of_units: Mapping[str, Any] | None = None,
) -> Facts:
    """The facts of a run.

    Args:
        bag: any training bag; all are of one kind.
        tile_size: usual side of a tile of theirs.
        classes: their names.
        details: of the evaluation of the run's own bags, where the evaluator left its threshold or cut.
        vocabulary: that its bags were ranked by.
        of_units: details of the evaluation of the units, where they have several bags.
    """
    scale = details.get("risk_scale")
    return Facts(
        *kind_of(bag),
        classes,
        details.get("threshold"),
        details.get("cut"),
        None if scale is None else tuple(scale),
        vocabulary,
        tile_size,
        details.get("thresholds", {}),
        None
        if of_units is None
        else Decision(of_units.get("threshold"), of_units.get("thresholds", {}), of_units.get("cut")),
    )


def write_facts(folder: Path, facts: Facts) -> None:
    """Writes ``model.json`` of a run."""
    write_json(folder / FACTS, {"schema_version": SCHEMA_VERSION, **asdict(facts)})


def read_facts(folder: Path) -> Facts:
    """``model.json`` of a run.

    Raises:
        UserError: it is not there (the run did not end), or was written by a newer version.
    """
    path = folder / FACTS
    if not path.is_file():
        raise UserError(f"the run '{folder}' has no {FACTS}", todo="it did not end: go on with resume=<that folder>")
    stored = json.loads(path.read_text(encoding="utf-8"))
    version = stored.pop("schema_version")
    if version > SCHEMA_VERSION:
        raise UserError(f"'{path}' has schema version {version}, newer than {SCHEMA_VERSION}", todo="update trivium")
    scale = stored["risk_scale"]
    units = stored.get("of_units")
    read = {
        "of_units": units and Decision(**units),
        "classes": tuple(stored["classes"]),
        "risk_scale": scale and (scale[0], scale[1]),
        "vocabulary": tuple(Entry(**entry) for entry in stored.get("vocabulary", ())),
    }
    return Facts(**{**stored, **read})
