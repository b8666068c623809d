"""The report is one file that says what was found, and shows nothing of restricted data."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from core.report.gallery import load_gallery, save_gallery
from core.report.report import write_report
from tests.core.evaluation.made import made_run


def _run(folder: Path, sharing: str = "open") -> Path:
    config = {
        "experiment": "made_run",
        "manifest": "/archive/Meyer_Anna/cohort.csv",
        "data": {"sharing": sharing, "name": "Meyer", "attribution": "Dr Meyer"},
        "objective": {"_target_": "core.objectives.softmax.SoftmaxContrastive"},
    }
    made_run(folder, seed=0, accuracy=0.7, config=config, prefix="Meyer")
    (folder / "metrics.csv").write_text(
        "step,loss,lr,logit_scale\n10,3.0,0.001,14\n20,2.0,0.0005,15\n30,1.5,0.0001,16\n"
    )
    (folder / "status.csv").write_text("path,status,reason\nMeyer1.svs,ok,\nMeyer2.svs,refused,no <mpp> for Meyer\n")
    (folder / "versions.json").write_text('{"torch": "2"}')
    (folder / "maps").mkdir()
    Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(folder / "maps" / "Meyer_map.png")
    images = np.random.default_rng(0).integers(255, size=(20, 3, 16, 16)).astype(np.uint8)
    ids, captions = [f"Meyer{k}" for k in range(20)], [f"caption of Meyer {k}" for k in range(20)]
    save_gallery(folder, images.__getitem__, ids, captions, np.arange(20) + 1, [captions[0]] * 20)
    return write_report(folder)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of an open run."""
    return _run(tmp_path_factory.mktemp("run"))


def test_it_needs_no_network_and_no_other_file(report: Path) -> None:
    page = report.read_text()
    links = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')\s>]+)', page)
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "<script" not in page


def test_it_shows_what_a_run_left(report: Path) -> None:
    page = report.read_text()
    for heading in ("Made run", "What data", "Figures", "Confusion", "Retrievals", "Map", "Training", "Inputs"):
        assert f">{heading}<" in page, heading
    assert "synthetic data" in page
    assert "lies above chance (0.250) and majority" in page
    assert "no &lt;mpp&gt; for Meyer" in page  # escaped
    assert page.count("data:image/jpeg") == 12 + 1
    assert "rank 20" in page


def test_a_control_that_does_better_is_said_in_the_headline(tmp_path: Path) -> None:
    from core.evaluation.classification import classification
    from core.evaluation.cohort import Classes, Cohort
    from core.evaluation.tables import write_results

    cohort = Cohort(list("abcd"), list("abcd"))
    known = {"colour6": {"leaf_accuracy": 0.9}, "resnet18": {"leaf_accuracy": 0.5}}
    right = classification(
        "zero_shot", np.eye(2)[[0, 1, 1, 0]], [0, 1, 1, 1], Classes(("x", "y"), np.ones(2)), cohort, known
    )
    write_results(tmp_path, [right])
    page = write_report(tmp_path).read_text()
    assert "It stays below colour." in page


def test_figures_are_kept_as_pdf_with_their_numbers(report: Path) -> None:
    folder = report.parent / "figures"
    names = {path.stem for path in folder.glob("*.pdf")}
    assert names == {"loss", "learning_rate", "logit_scale", "intervals", "confusion"}
    assert names == {path.stem for path in folder.glob("*.csv")}
    assert (folder / "loss.csv").read_text().splitlines()[1] == "10,3.0"
    assert (folder / "loss.pdf").read_bytes().startswith(b"%PDF")


def test_writing_it_again_gives_the_same_page(report: Path) -> None:
    first = report.read_bytes()
    assert write_report(report.parent).read_bytes() == first


def test_restricted_data_leave_no_name_text_image_or_path(tmp_path: Path) -> None:
    page = _run(tmp_path, "restricted").read_text()
    assert "Meyer" not in page
    assert "archive" not in page
    assert "data:image" not in page
    assert "2 inputs: 1 ok, 1 refused." in page
    assert "SoftmaxContrastive" in page
    for figure in (tmp_path / "figures").iterdir():
        assert b"Meyer" not in figure.read_bytes()


def test_a_run_without_figures_or_extras_has_a_report(tmp_path: Path) -> None:
    from core.evaluation.tables import write_results

    write_results(tmp_path, [])
    OmegaConf.save({"seed": 0}, tmp_path / "config.yaml")
    assert "nothing was evaluated" in write_report(tmp_path).read_text()


def test_the_gallery_keeps_the_best_and_the_worst_with_different_captions_first(tmp_path: Path) -> None:
    images = np.zeros((8, 3, 8, 8), np.uint8)
    captions = ["a", "a", "b", "a", "c", "d", "e", "f"]
    save_gallery(tmp_path, images.__getitem__, list("01234567"), captions, [1, 1, 1, 1, 5, 9, 7, 7], count=2)
    best, worst = load_gallery(tmp_path)
    assert [item.id for item in best] == ["0", "2"]
    assert [item.id for item in worst] == ["5", "6"]
    assert best[0].image.shape == (160, 160, 3)


def test_the_gallery_never_shows_an_image_twice(tmp_path: Path) -> None:
    save_gallery(tmp_path, np.zeros((3, 3, 8, 8), np.uint8).__getitem__, list("012"), list("abc"), [1, 2, 3], count=6)
    best, worst = load_gallery(tmp_path)
    assert (len(best), len(worst)) == (3, 0)


@pytest.mark.parametrize("names", [("a", "b"), tuple(f"a class with a rather long name {k}" for k in range(30))])
def test_confusion_is_drawn_for_few_and_for_many_classes(names: tuple[str, ...]) -> None:
    from core.report.figures import confusion

    plot, frame = confusion(np.eye(len(names), dtype=int), names)
    assert frame.shape == (len(names), len(names) + 1)
    assert len(plot.axes[0].get_yticklabels()) == len(names)
