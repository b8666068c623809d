"""Results on disk: ``items.parquet`` (one row an item and evaluator) and ``summary.json`` (figures, details).

Both carry a schema version, and a file of a newer version is refused by name instead of being half understood.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from core.evaluation.metrics import Metric
from core.files import atomic_write
from core.types import Evaluation, Figure, UserError

SCHEMA_VERSION = 1
_VERSION_KEY = b"schema_version"


@dataclass(frozen=True)
class Results:
    """What a run has on disk."""

    items: pd.DataFrame  # all evaluators' items, with a column ``evaluation``
    figures: tuple[Figure, ...]
    details: dict[str, dict[str, Any]]  # by evaluation

    @property
    def metrics(self) -> dict[str, Metric]:
        """Recipes by figure name."""
        recipes = (recipe for detail in self.details.values() for recipe in detail.get("metrics", {}).values())
        return {metric.name: metric for metric in map(Metric.from_dict, recipes)}

    def items_of(self, name: str) -> pd.DataFrame:
        """Items of the evaluation that a figure (or evaluation) name belongs to."""
        mine: pd.DataFrame = self.items[self.items["evaluation"] == name.partition("/")[0]]
        return mine.reset_index(drop=True)


def write_results(folder: str | Path, evaluations: Sequence[Evaluation]) -> None:
    """Writes ``items.parquet`` and ``summary.json`` of a run, atomically."""
    folder = Path(folder)
    tables = [evaluation.items.assign(evaluation=evaluation.name) for evaluation in evaluations]
    items = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"evaluation": []})
    table = pa.Table.from_pandas(items, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _VERSION_KEY: str(SCHEMA_VERSION).encode()})
    with atomic_write(folder / "items.parquet") as path:
        pq.write_table(table, path)
    figures = [asdict(figure) for evaluation in evaluations for figure in evaluation.figures]
    details = {evaluation.name: dict(evaluation.details) for evaluation in evaluations}
    write_json(folder / "summary.json", {"schema_version": SCHEMA_VERSION, "figures": figures, "details": details})


def read_results(folder: str | Path) -> Results:
    """Inverse of :func:`write_results`.

    Raises:
        UserError: a file is missing, cannot be read, or was written by a newer version.
    """
    folder = Path(folder)
    summary = read_summary(folder)
    path = folder / "items.parquet"
    if not path.is_file():
        raise UserError(f"'{path}' is missing", todo="evaluate the run first")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"cannot read the items: {error}", str(path), "evaluate the run again") from error
    _refuse_newer((table.schema.metadata or {}).get(_VERSION_KEY, b"1"), path)
    figures = tuple(_figure(stored) for stored in summary["figures"])
    return Results(table.to_pandas(), figures, summary["details"])


def read_summary(folder: str | Path) -> dict[str, Any]:
    """``summary.json`` of a run: ``figures`` (list) and ``details`` (by evaluation)."""
    path = Path(folder) / "summary.json"
    if not path.is_file():
        raise UserError(f"'{path}' is missing", todo="give the folder of a run that ended, or evaluate it first")
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"cannot read the summary: {error}", str(path), "evaluate the run again") from error
    _refuse_newer(str(summary.get("schema_version", 1)).encode(), path)
    return summary


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON atomically; NaN and infinities become null, numpy values become plain ones."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(_plain(value), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _figure(stored: dict[str, Any]) -> Figure:
    bounds = {key: math.nan if stored[key] is None else stored[key] for key in ("value", "low", "high")}
    controls = {name: math.nan if value is None else value for name, value in stored["controls"].items()}
    return Figure(**{**stored, **bounds, "controls": controls})


def _refuse_newer(version: bytes, path: Path) -> None:
    if int(version) > SCHEMA_VERSION:
        raise UserError(
            f"schema version {int(version)} is newer than {SCHEMA_VERSION}, the newest this version reads",
            str(path),
            "update trivium",
        )
