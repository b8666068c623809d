"""Claims about the audit: what would invalidate a result is refused, what a person should know is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from core.data.audit import Finding, audit, content_hashes, refuse
from core.data.manifest import Manifest, ManifestOptions
from core.data.splits import assign_splits
from core.types import UserError
from tests.core.data.cohort import DATA, needs_data, write_cohort


def changed(folder: Path, **columns: dict[int, str]) -> Manifest:
    """The cohort's manifest with some cells replaced."""
    path = write_cohort(folder)
    frame = pd.read_csv(path, dtype=str)
    for name, cells in columns.items():
        for row, value in cells.items():
            frame.loc[row, name] = value
    frame.to_csv(path, index=False)
    return Manifest.read(path)


def found(manifest: Manifest, check: str) -> list[Finding]:
    return [finding for finding in audit(manifest, progress=False) if finding.check == check]


def test_a_sound_cohort_has_nothing_to_refuse(tmp_path: Path) -> None:
    findings = audit(changed(tmp_path), progress=False)
    assert {finding.severity for finding in findings} == {"info"}
    refuse(findings)


def test_a_group_in_two_splits_is_refused(tmp_path: Path) -> None:
    findings = audit(changed(tmp_path, split={1: "test"}), progress=False)
    assert [(finding.check, finding.examples) for finding in findings if finding.severity == "refuse"] == [
        ("group_leak", ("g0",))
    ]
    with pytest.raises(UserError, match="1 groups are in more than one split: g0"):
        refuse(findings)


def test_the_same_picture_in_two_splits_is_refused_under_any_name(tmp_path: Path) -> None:
    manifest = changed(tmp_path)
    shutil.copy(manifest.file(0), manifest.file(23))
    finding = found(manifest, "duplicate_images")[0]
    assert (finding.severity, finding.examples) == ("refuse", ("p0 = p23",))


def test_the_same_picture_twice_in_training_is_told(tmp_path: Path) -> None:
    manifest = changed(tmp_path)
    shutil.copy(manifest.file(0), manifest.file(5))
    finding = found(manifest, "duplicate_images")[0]
    assert (finding.severity, finding.examples) == ("warn", ("p0 = p5",))


def test_windows_of_one_slide_are_no_duplicates_but_may_not_be_in_two_splits(tmp_path: Path) -> None:
    path = write_cohort(tmp_path, 8)
    name = pd.read_csv(path)["path"][0]
    rows = [{"path": name, "x": 4 * n, "y": 0, "w": 4, "h": 4, "group": f"g{n}", "split": "train"} for n in range(3)]
    other = [
        {"path": pd.read_csv(path)["path"][n], "group": n, "split": split} for n, split in ((5, "val"), (6, "test"))
    ]
    pd.DataFrame(rows + other).to_csv(path, index=False)
    assert not audit(Manifest.read(path), progress=False)
    rows[2]["split"] = "test"
    pd.DataFrame(rows + other).to_csv(path, index=False)
    assert [finding.check for finding in audit(Manifest.read(path), progress=False)] == ["path_leak"]


def test_a_split_without_pictures_is_refused_and_without_val_told(tmp_path: Path) -> None:
    manifest = changed(tmp_path, split=dict.fromkeys(range(24), "train"))
    severities = {finding.message[-6:]: finding.severity for finding in found(manifest, "empty_split")}
    assert severities == {"'test'": "refuse", " 'val'": "warn"}


def test_a_class_that_is_tested_but_never_trained_on_is_told(tmp_path: Path) -> None:
    manifest = changed(tmp_path, label={23: "star"})
    assert found(manifest, "unseen_class")[0].examples == ("star",)
    assert found(manifest, "class_counts")[0].severity == "warn"


def test_only_files_of_equal_size_are_read(tmp_path: Path) -> None:
    for name, text in (("a", "xy"), ("b", "xy"), ("c", "zw"), ("d", "long")):
        (tmp_path / name).write_text(text)
    digests = content_hashes(sorted(tmp_path.iterdir()), progress=False)
    assert {path.name for path in digests} == {"a", "b", "c"}
    assert digests[tmp_path / "a"] == digests[tmp_path / "b"] != digests[tmp_path / "c"]


@needs_data
@pytest.mark.parametrize("name", ["blood_cells", "colorectal_textures", "textbook_micrographs"])
def test_the_real_data_have_no_leak(name: str) -> None:
    columns = {"path": "image", "id": "figure_id"} if name.startswith("text") else {"path": "image"}
    table = "captions.csv" if name.startswith("text") else "labels.csv"
    pattern = "^(?P<group>(fig-ch|OSC_Microbio_)[0-9]+)_" if name.startswith("text") else None
    options = ManifestOptions(columns=columns, pattern=pattern, pattern_column="id")
    manifest = Manifest.read(DATA / name / table, options)
    manifest = manifest.with_frame(assign_splits(manifest.frame, {"val": 0.15}, 0, 0, 5))
    assert not [finding for finding in audit(manifest, progress=False) if finding.severity == "refuse"]
