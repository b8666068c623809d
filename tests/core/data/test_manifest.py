"""Claims about reading manifests."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.manifest import Manifest, ManifestOptions, require
from core.data.paths import check_paths
from core.types import UserError
from tests.core.data.cohort import DATA, needs_data


def table(folder: Path, text: str, pictures: str = "a.png b.png c.png") -> Path:
    for name in pictures.split():
        (folder / name).write_bytes(name.encode())
    path = folder / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path, options: ManifestOptions | None = None) -> str:
    with pytest.raises(UserError) as caught:
        Manifest.read(path, options)
    return str(caught.value)


def test_checking_paths_imports_nothing_heavy() -> None:
    code = "import sys, core.data.paths; print([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_manifest_is_told_with_the_folder_that_exists(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist") as caught:
        check_paths(tmp_path / "typo" / "below" / "table.csv")
    assert f"'{tmp_path}' is the last that exists" in str(caught.value)


def test_a_folder_and_an_empty_file_are_no_manifests(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    with pytest.raises(UserError, match="is a folder"):
        check_paths(tmp_path)
    with pytest.raises(UserError, match="has no rows"):
        check_paths(tmp_path / "empty.csv")


def test_names_that_look_like_numbers_or_nothing_stay_names(tmp_path: Path) -> None:
    frame = Manifest.read(table(tmp_path, "path,group,label,site\na.png,001,NA,1e3\nb.png,002,null,None\n")).frame
    assert frame["group"].tolist() == ["001", "002"]
    assert frame["label"].tolist() == ["NA", "null"]
    assert frame["site"].tolist() == ["1e3", "None"]


def test_a_table_maps_onto_ours_and_keeps_what_it_does_not_know(tmp_path: Path) -> None:
    path = table(tmp_path, "file,patient,group,note\na.png,p1,x,hello\nb.png,p2,y,\n")
    frame = Manifest.read(path, ManifestOptions(columns={"path": "file", "group": "patient", "label": "patient"})).frame
    assert frame["group"].tolist() == ["p1", "p2"]
    assert frame["label"].tolist() == ["p1", "p2"]
    assert frame["group.original"].tolist() == ["x", "y"]
    assert frame["note"].iloc[0] == "hello"


def test_captions_are_gathered_in_order_and_concepts_split(tmp_path: Path) -> None:
    text = "path,caption.10,caption.2,caption,concepts\na.png,ten,two,one,A:1|B:2\nb.png,,only,,\n"
    frame = Manifest.read(table(tmp_path, text)).frame
    assert frame["captions"].tolist() == [["one", "two", "ten"], ["only"]]
    assert frame["concepts"].tolist() == [["A:1", "B:2"], []]


def test_a_pattern_reads_fields_out_of_names(tmp_path: Path) -> None:
    path = table(tmp_path, "path\np1_disc.png\np2_ring.png\n", "p1_disc.png p2_ring.png")
    frame = Manifest.read(path, ManifestOptions(pattern=r"(?P<group>p\d)_(?P<label>\w+)\.")).frame
    assert frame["group"].tolist() == ["p1", "p2"]
    assert frame["label"].tolist() == ["disc", "ring"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"(?P<group>p\d)_", ["row 3", "other.png"]),
        (r"p\d", ["no named group", "(?P<group>"]),
        (r"(?P<group>", ["no regular expression"]),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused(tmp_path: Path, pattern: str, words: list[str]) -> None:
    path = table(tmp_path, "path\np1_disc.png\nother.png\n", "p1_disc.png other.png")
    message = refused(path, ManifestOptions(pattern=pattern))
    assert all(word in message for word in words), message


def test_a_clinical_table_joins_by_group_and_tells_who_is_alone(tmp_path: Path) -> None:
    path = table(tmp_path, "path,group\na.png,1\nb.png,2\nc.png,1\n")
    clinical = tmp_path / "clinical.csv"
    clinical.write_text("group,time,event\n1,3.5,1\n9,1,0\n")
    manifest = Manifest.read(path, ManifestOptions(table=str(clinical)))
    assert manifest.frame["path"].tolist() == ["a.png", "b.png", "c.png"]
    np.testing.assert_array_equal(manifest.frame["time"], [3.5, np.nan, 3.5])
    assert any("not in clinical.csv: 2" in note for note in manifest.notes)
    assert any("belong to no row of the manifest: 9" in note for note in manifest.notes)


@pytest.mark.parametrize(
    ("clinical", "words"),
    [
        ("group,time\n1,2\n1,3\n", ["occurs twice", "row 3"]),
        ("patient,time\n1,2\n", ["manifest_options.on", "patient"]),
        ("group,path\n1,x\n", ["'path'", "in the manifest and in the table"]),
        ("group,time\n7,2\n", ["no value of 'group'"]),
    ],
)
def test_a_table_that_cannot_be_joined_is_refused(tmp_path: Path, clinical: str, words: list[str]) -> None:
    path = table(tmp_path, "path,group\na.png,1\n")
    (tmp_path / "clinical.csv").write_text(clinical)
    message = refused(path, ManifestOptions(table=str(tmp_path / "clinical.csv")))
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,caption\n", ["manifest.csv", "no rows"]),
        ("file,caption\na.png,x\n", ["'path' is missing", "file", "manifest_options.columns"]),
        ("path,path\na.png,b.png\n", ["'path' occurs twice"]),
        ("path,id\na.png,1\nb.png,2\nc.png,1\n", ["occurs twice", "rows 2, 4", "caption.1"]),
        ("path\na.png\na.png\n", ["occurs twice", "rows 2, 3"]),
        ('path,mpp\na.png,0.5\nb.png,"0,5"\n', ["mpp is not a number", "row 3", "'0,5'"]),
        ("path,mpp\na.png,-1\n", ["mpp is not positive", "row 2"]),
        ("path,mpp,gsd_m\na.png,1,1\n", ["mpp and gsd_m"]),
        ("path,x,y\na.png,1,1\n", ["w, h", "window"]),
        ("path,x,y,w,h\na.png,1,1,5,5\nb.png,1,1,,5\n", ["incomplete", "row 3"]),
        ("path,x,y,w,h\na.png,1,1,0,5\n", ["no extent", "row 2"]),
        ("path,split\na.png,train\nb.png,holdout\n", ["split", "row 3", "'holdout'"]),
        ("path,split\na.png,train\nb.png,\n", ["split", "row 3", "empty"]),
        ("path,label.tumour\na.png,1\nb.png,2\n", ["label.tumour", "row 3"]),
        ("path,caption\na.png,x\n\n,  \n", ["neither", "row 4."]),
        ("path\na.png,b.png\n", ["cannot be read as a table", "line 2"]),
        ("path,caption\nx.png,a cell\n", ["x.png' does not exist", "row 2", "manifest_options.root"]),
        ("path\nx.png\ny.png\n", ["none of 2 pictures exists", "x.png'", "row 2"]),
    ],
)
def test_a_mistake_is_named_with_its_rows(tmp_path: Path, text: str, words: list[str]) -> None:
    message = refused(table(tmp_path, text))
    assert all(word in message for word in words), message


def test_a_file_in_another_encoding_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("path,caption\na.png,Größe\n".encode("latin-1"))
    assert "UTF-8" in refused(tmp_path / "m.csv")


def test_a_column_that_is_mapped_but_absent_is_refused(tmp_path: Path) -> None:
    message = refused(table(tmp_path, "path\na.png\n"), ManifestOptions(columns={"group": "patient"}))
    assert "'patient'" in message
    assert "there are: path" in message


def test_a_missing_picture_costs_its_rows_and_no_more(tmp_path: Path) -> None:
    manifest = Manifest.read(table(tmp_path, "path\na.png\ngone.png\nb.png\n"))
    assert manifest.frame["path"].tolist() == ["a.png", "b.png"]
    assert manifest.frame["row"].tolist() == [0, 2]
    assert [(fate.path, fate.status) for fate in manifest.fates] == [("gone.png", "refused")]


def test_rows_without_a_picture_are_text_and_counted(tmp_path: Path) -> None:
    manifest = Manifest.read(table(tmp_path, "path,caption\na.png,x\n,only words\n,more words\n"))
    assert manifest.text_only == 2
    assert manifest.frame["id"].is_unique
    assert any(note.startswith("2 rows have no picture") for note in manifest.notes)


def test_pictures_without_a_caption_are_refused_only_where_captions_are_needed(tmp_path: Path) -> None:
    path = table(tmp_path, "path,caption,label\ngone.png,x,u\na.png,,u\nb.png,y,v\nc.png, ,v\n")
    manifest = Manifest.read(path)
    require(manifest, "label")
    with pytest.raises(UserError, match=r"2 of 3 pictures have no caption.*rows 3, 5"):
        require(manifest, "caption")


def test_a_table_without_captions_is_told_before_its_pictures_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,caption\ngone.png,\nlost.png,x\n")
    with pytest.raises(UserError, match=r"1 of 2 pictures have no caption.*row 2"):
        Manifest.read(tmp_path / "m.csv", need="caption")


def test_a_root_moves_the_pictures_not_the_table(tmp_path: Path) -> None:
    odd = tmp_path / "Bilder, (groß)"
    odd.mkdir()
    (odd / "ä (1), b.png").write_bytes(b"x")
    (tmp_path / "m.csv").write_text('path\n"ä (1), b.png"\n', encoding="utf-8")
    manifest = Manifest.read(tmp_path / "m.csv", ManifestOptions(root=str(odd)))
    assert manifest.file(0) == odd / "ä (1), b.png"


def test_windows_of_one_slide_have_ids_of_their_own(tmp_path: Path) -> None:
    frame = Manifest.read(table(tmp_path, "path,x,y,w,h,mpp\na.png,0,0,5,5,.5\na.png,5,0,5,5,.5\n")).frame
    assert frame["id"].tolist() == ["a.png@0,0,5,5", "a.png@5,0,5,5"]
    assert frame["resolution"].tolist() == [0.5, 0.5]


def test_parquet_and_csv_give_the_same_table(tmp_path: Path) -> None:
    path = table(tmp_path, "path,group,caption,mpp\na.png,7,x,0.5\nb.png,8,y,\n")
    pd.DataFrame({"path": ["a.png", "b.png"], "group": [7, 8], "caption": ["x", "y"], "mpp": [0.5, np.nan]}).to_parquet(
        tmp_path / "m.parquet"
    )
    pd.testing.assert_frame_equal(Manifest.read(path).frame, Manifest.read(tmp_path / "m.parquet").frame)


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(
    lambda text: text.strip()
)
ROW = st.fixed_dictionaries(
    {
        "group": TEXT,
        "label": st.none() | TEXT,
        "captions": st.lists(TEXT, max_size=3),
        "mpp": st.none() | st.floats(0.01, 100, allow_nan=False),
        "note": st.none() | TEXT,
    }
)


@settings(max_examples=25, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=6))
def test_what_is_written_reads_back_the_same(rows: list[dict[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = []
        for number, row in enumerate(rows):
            (folder / f"{number}.png").touch()
            captions = {f"caption.{index}": text for index, text in enumerate(row.pop("captions"), 1)}  # type: ignore[arg-type]
            records.append({"path": f"{number}.png", **row, **captions})
        pd.DataFrame(records).to_csv(folder / "m.csv", index=False)
        first = Manifest.read(folder / "m.csv")
        first.write(folder / "out" / "again.csv")
        second = Manifest.read(folder / "out" / "again.csv")
        assert [second.file(i) for i in range(len(rows))] == [first.file(i) for i in range(len(rows))]
        ours = first.frame.drop(columns="path")
        kept = [name for name in ours if name in second.frame]  # a column without any value is not written
        assert ours.drop(columns=kept).isna().all(axis=None)
        pd.testing.assert_frame_equal(second.frame[kept], ours[kept])


@needs_data
@pytest.mark.parametrize(
    ("file", "options", "rows", "groups"),
    [
        ("blood_cells/labels.csv", {"columns": {"path": "image"}}, 336, None),
        ("colorectal_textures/labels.csv", {"columns": {"path": "image"}}, 100, 100),
        ("colorectal_tissue9_examples/labels.csv", {"columns": {"path": "image"}}, 27, 27),
    ],
)
def test_the_real_tables_read(file: str, options: dict[str, object], rows: int, groups: int | None) -> None:
    manifest = Manifest.read(DATA / file, ManifestOptions(**options))  # type: ignore[arg-type]
    assert len(manifest.frame) == rows
    assert not manifest.fates
    assert groups is None or manifest.frame["group"].nunique() == groups
