"""Claims about restricted data: what is printed or reported names nobody."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from core.data.audit import audit
from core.data.concepts import RowConcepts
from core.data.describe import describe
from core.data.manifest import Manifest, ManifestOptions
from core.data.sharing import redact, sharing_key
from core.types import Fate, UserError
from tests.core.data.cohort import write_cohort

SECRETS = ("SECRET", "4711")


def planted(folder: Path) -> Manifest:
    """A cohort with identifiers in ids, groups, captions, a clinical table and a record number; one leak, one twin."""
    path = write_cohort(folder)
    frame = pd.read_csv(path, dtype=str)
    for name in ("id", "group", "caption.1"):
        frame[name] = "SECRET" + frame[name]
    frame.loc[1, "split"] = "test"
    (folder / frame["path"][5]).write_bytes((folder / frame["path"][0]).read_bytes())
    frame.to_csv(path, index=False)
    clinical = pd.DataFrame({"group": frame["group"].unique()[1:], "mrn": "4711"})
    clinical.to_csv(folder / "clinical.csv", index=False)
    return Manifest.read(path, ManifestOptions(table=str(folder / "clinical.csv")))


def printed(manifest: Manifest, sharing: str) -> str:
    stream = io.StringIO()
    concepts = RowConcepts(tuple(frozenset({1}) for _ in range(24)), {"ring": None, "disc": 1})
    labels = pd.factorize(manifest.frame["label"])[0]
    fates = [Fate("SECRET.png", "refused", "SECRET"), Fate("b.png", "ok")]
    names = ["SECRET", "b", "c"]
    console = Console(file=stream, width=200)
    describe(manifest, audit(manifest, progress=False), fates, concepts, labels, names, sharing, console)
    return stream.getvalue()


def test_what_is_printed_of_restricted_data_quotes_nothing(tmp_path: Path) -> None:
    manifest = planted(tmp_path)
    shown, hidden = printed(manifest, "open"), printed(manifest, "restricted")
    assert "SECRETg0" in shown
    assert not any(secret in hidden for secret in SECRETS)
    for told in ("group_leak: 1 found", "duplicate_images", "classes without a concept: ring", "1 of 2 files"):
        assert told in hidden


def test_the_table_of_splits_counts_pictures_and_groups(tmp_path: Path) -> None:
    text = printed(Manifest.read(write_cohort(tmp_path)), "open")
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if "│" in line]
    assert ["disc", "6", "1", "1", "8"] in lines
    assert ["all", "16", "4", "4", "24"] in lines
    assert ["groups", "8", "2", "2", "12"] in lines


def test_a_redacted_table_pairs_but_does_not_name(tmp_path: Path) -> None:
    frame = planted(tmp_path).frame.assign(score=0.25, right=True, record=4711)
    first, again, other = redact(frame, b"one"), redact(frame, b"one"), redact(frame, b"two")
    pd.testing.assert_frame_equal(first, again)
    assert not any(secret in first.to_csv() for secret in SECRETS)
    assert first["id"].is_unique
    assert (first.groupby("group").size() == 2).all()
    assert not set(first["id"]) & set(other["id"])
    assert {"score", "right", "split", "label"} <= set(first)
    assert not {"path", "captions", "mrn", "record", "row"} & set(first)


def test_the_key_is_made_once_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))
    with ThreadPoolExecutor(8) as pool:  # jobs of a sweep that begin together
        keys = list(pool.map(lambda _: sharing_key(), range(32)))
    assert set(keys) == {sharing_key()}
    (file,) = (tmp_path / "cache").iterdir()
    assert (len(keys[0]), file.stat().st_mode & 0o777) == (32, 0o600)
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "elsewhere"))
    assert sharing_key() != keys[0]


def test_a_key_that_protects_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path))
    sharing_key()
    file = tmp_path / "sharing.key"
    os.chmod(file, 0o644)
    with pytest.raises(UserError, match=r"can be read by others.*chmod 600"):
        sharing_key()
    os.chmod(file, 0o600)
    file.write_bytes(b"short")
    with pytest.raises(UserError, match="5 bytes and not 32"):
        sharing_key()
