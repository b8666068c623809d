"""Results come back as they were written, and a newer file is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from core.evaluation.metrics import point, statistic
from core.evaluation.retrieval import retrieval
from core.evaluation.tables import read_results, write_results
from core.evaluation.zero_shot import zero_shot
from core.types import Evaluation, UserError
from tests.core.evaluation.test_retrieval import _cohort


@pytest.fixture
def evaluations() -> list[Evaluation]:
    from core.evaluation.cohort import Classes

    shot = zero_shot(np.eye(3), np.eye(3), [0, 1, 1], Classes(("a", "b", "c"), np.array([9, 9, 1])), _cohort(3))
    return [shot, retrieval(np.eye(3), np.eye(3), [0, 1, 2], ["x", "y", "y"], _cohort(3))]


def test_figures_items_and_details_come_back(tmp_path: Path, evaluations: list[Evaluation]) -> None:
    write_results(tmp_path, evaluations)
    results = read_results(tmp_path)
    assert [f.name for f in results.figures] == [f.name for e in evaluations for f in e.figures]
    assert results.figures[0] == evaluations[0].figures[0]
    assert results.details["zero_shot"]["confusion"] == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    assert len(results.items) == 3 + 6


def test_every_figure_can_be_computed_again_from_its_items(tmp_path: Path, evaluations: list[Evaluation]) -> None:
    write_results(tmp_path, evaluations)
    results = read_results(tmp_path)
    for figure in results.figures:
        items = results.items_of(figure.name)
        assert point(statistic(results.metrics[figure.name], items), len(items)) == pytest.approx(figure.value)


def test_what_is_not_a_number_is_null_in_json(tmp_path: Path, evaluations: list[Evaluation]) -> None:
    one = zero_shot(np.eye(3)[:1], np.eye(3), [0], _classes(), _cohort(1))
    write_results(tmp_path, [one])
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored["figures"][0]["low"] is None
    assert math.isnan(read_results(tmp_path).figures[0].low)


def _classes() -> object:
    from core.evaluation.cohort import Classes

    return Classes(("a", "b", "c"), np.array([1, 1, 1]))


def test_a_newer_version_is_refused_by_name(tmp_path: Path, evaluations: list[Evaluation]) -> None:
    write_results(tmp_path, evaluations)
    path = tmp_path / "items.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"schema_version": b"99"}), path)
    with pytest.raises(UserError, match="schema version 99 is newer"):
        read_results(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    (tmp_path / "summary.json").write_text(json.dumps({**summary, "schema_version": 7}))
    with pytest.raises(UserError, match=r"summary\.json"):
        read_results(tmp_path)


def test_missing_or_damaged_results_are_named(tmp_path: Path, evaluations: list[Evaluation]) -> None:
    with pytest.raises(UserError, match=r"summary\.json"):
        read_results(tmp_path)
    write_results(tmp_path, evaluations)
    (tmp_path / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot read the items"):
        read_results(tmp_path)
