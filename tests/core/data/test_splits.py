"""Claims about splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from core.data.manifest import Manifest, ManifestOptions
from core.data.splits import assign_splits, load_splits, save_splits, split_hash
from core.types import UserError
from tests.core.data.cohort import DATA, needs_data

SHARES = {"val": 0.15, "test": 0.2}


def frame_of(groups: list[int], labels: list[str | None] | None = None) -> pd.DataFrame:
    count = len(groups)
    return pd.DataFrame(
        {
            "id": [f"r{row}" for row in range(count)],
            "path": [f"{row}.png" for row in range(count)],
            "group": [f"g{group}" for group in groups],
            "label": pd.Series(labels or [None] * count, dtype=object),
            "split": pd.Series([None] * count, dtype=object),
        }
    )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 15), st.sampled_from("abc")), min_size=12, max_size=60), st.integers(0, 5))
def test_a_group_is_never_divided(rows: list[tuple[int, str]], seed: int) -> None:
    frame = frame_of([*range(4), *(group for group, _ in rows)], ["a"] * 4 + [label for _, label in rows])
    split = assign_splits(frame, SHARES, seed)
    assert split.groupby("group")["split"].nunique().max() == 1
    assert (split["split"] == "train").any()
    assert (split["split"] == "test").any()


def test_shares_and_classes_come_out_as_asked() -> None:
    labels = [name for name, count in (("a", 300), ("b", 100), ("c", 40)) for _ in range(count)]
    split = assign_splits(frame_of(list(range(440)), labels), SHARES, 0)
    table = pd.crosstab(split["label"], split["split"], normalize="index")
    np.testing.assert_allclose(table["test"], 0.2, atol=0.03)
    np.testing.assert_allclose(table["val"], 0.15, atol=0.04)


def test_folds_are_those_of_scikit_learn_and_predict_every_row_once() -> None:
    random = np.random.default_rng(0)
    groups, labels = random.integers(0, 40, 120).tolist(), random.choice(["x", "y", "z"], 120).tolist()
    frame = frame_of(groups, labels)
    reference = StratifiedGroupKFold(5, shuffle=True, random_state=2)
    seen = []
    for fold, (_, test) in enumerate(reference.split(np.zeros(120), labels, frame["group"].to_numpy(str))):
        split = assign_splits(frame, SHARES, 2, fold, 5)["split"]
        np.testing.assert_array_equal(np.flatnonzero(split == "test"), np.sort(test))
        assert (split == "val").any()
        seen += test.tolist()
    assert sorted(seen) == list(range(120))


def test_the_same_seed_gives_the_same_splits_and_another_does_not() -> None:
    frame = frame_of(list(range(60)), ["a", "b"] * 30)
    first, again, other = (split_hash(assign_splits(frame, SHARES, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_splits_of_the_file_are_left_alone() -> None:
    frame = frame_of([0, 1, 2]).assign(split=["test", "train", "val"])
    assert assign_splits(frame, SHARES, 0)["split"].tolist() == ["test", "train", "val"]


def test_text_without_a_picture_trains() -> None:
    frame = frame_of(list(range(20)))
    frame.loc[[3, 4], "path"] = None
    assert assign_splits(frame, SHARES, 0)["split"].iloc[[3, 4]].tolist() == ["train", "train"]


@pytest.mark.parametrize(
    ("groups", "arguments", "words"),
    [
        ([0, 0, 0], (SHARES, 0), "cannot be divided"),
        ([0, 1, 2], ({"test": 0.5, "val": 0.5}, 0), "leave some for train"),
        ([0, 1, 2], ({"tset": 0.5}, 0), "tset"),
        ([0, 1, 2], (SHARES, 0, 5, 5), "expected 0 to 4"),
        ([0, 1, 2], (SHARES, 0, 0, 5), "3 groups cannot be divided into 5"),
        ([0, 1, 2], (SHARES, 0, 1, None), "folds is not given"),
    ],
)
def test_what_cannot_be_split_is_refused(groups: list[int], arguments: tuple, words: str) -> None:
    with pytest.raises(UserError, match=words):
        assign_splits(frame_of(groups), *arguments)


def test_saved_splits_are_used_again_and_altered_ones_refused(tmp_path: Path) -> None:
    frame = frame_of(list(range(40)))
    split = assign_splits(frame, SHARES, 0)
    digest = save_splits(split, tmp_path / "splits.csv", seed=0)
    again = load_splits(frame.iloc[::-1].reset_index(drop=True), tmp_path / "splits.csv")
    assert split_hash(again) == digest
    more = pd.concat([frame, frame_of([99]).assign(id="new")], ignore_index=True)
    with pytest.raises(UserError, match="1 rows have no saved split: new"):
        load_splits(more, tmp_path / "splits.csv")
    text = (tmp_path / "splits.csv").read_text()
    (tmp_path / "splits.csv").write_text(text.replace("test", "train", 1))
    with pytest.raises(UserError, match="altered"):
        load_splits(frame, tmp_path / "splits.csv")


@needs_data
@pytest.mark.parametrize(("name", "floor"), [("colorectal_textures", 0.677), ("blood_cells", 0.649)])
def test_our_folds_reproduce_the_published_floor_of_the_real_data(name: str, floor: float) -> None:
    manifest = Manifest.read(DATA / name / "labels.csv", ManifestOptions(columns={"path": "image"}))
    frame = manifest.frame
    features = []
    for row in range(len(frame)):
        with Image.open(manifest.file(row)) as image:
            pixels = np.asarray(image.convert("RGB"), np.float64) / 255
        features.append([*pixels.mean((0, 1)), *pixels.std((0, 1))])
    x, y = np.array(features), frame["label"].to_numpy(str)
    pooled = []
    for seed in range(3):
        predicted = np.empty_like(y)
        for fold in range(5):
            test = (assign_splits(frame, {}, seed, fold, 5)["split"] == "test").to_numpy()
            model = make_pipeline(StandardScaler(), LogisticRegression(C=1, max_iter=1000)).fit(x[~test], y[~test])
            predicted[test] = model.predict(x[test])
        pooled.append((predicted == y).mean())
    assert np.mean(pooled) == pytest.approx(floor, abs=0.0006)
