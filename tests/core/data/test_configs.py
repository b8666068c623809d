"""Claims about the configs of real data: each composes, reads its table and can be split as it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

import conf
from core.data.audit import audit
from core.data.augment import Augment
from core.data.manifest import Manifest, ManifestOptions, require
from core.data.samplers import GroupSampler, UniformSampler
from core.data.splits import assign_splits
from tests.core.data.cohort import DATA, needs_data

CONF = Path(conf.__file__).parent
TABLES = ["blood_cells", "colorectal_textures", "colorectal_tissue9_examples", "textbook_micrographs"]


def config(*overrides: str):
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(None, [f"hydra.searchpath=[file://{CONF / 'pathology'}]", "+seed=1", *overrides])


@needs_data
@pytest.mark.parametrize("name", TABLES)
def test_every_real_table_reads_and_splits_by_its_config(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_DATA", str(DATA.parent))
    cfg = config(f"+data={name}")
    options = OmegaConf.to_container(cfg.manifest_options, resolve=True)
    manifest = Manifest.read(cfg.manifest, ManifestOptions(**options))  # type: ignore[arg-type]
    require(manifest, "label" if cfg.data.captions.source == "label" else "caption")
    split = cfg.data.split
    frame = assign_splits(manifest.frame, split.fractions, 0, split.fold, split.folds)
    assert (frame["split"] == "test").mean() == pytest.approx(1 / split.folds, abs=0.06)
    findings = audit(manifest.with_frame(frame), progress=False)
    assert not [finding for finding in findings if finding.severity == "refuse"]
    assert cfg.data.licence
    assert "Changed:" in cfg.data.attribution
    assert cfg.data.sharing == "open"
    assert isinstance(instantiate(cfg.data.augment), Augment)


@needs_data
def test_micrographs_are_grouped_by_book_and_chapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_DATA", str(DATA.parent))
    cfg = config("+data=textbook_micrographs")
    options = OmegaConf.to_container(cfg.manifest_options, resolve=True)
    frame = Manifest.read(cfg.manifest, ManifestOptions(**options)).frame  # type: ignore[arg-type]
    assert len(frame) == 219
    assert frame.groupby("group")["label"].nunique().max() == 1  # the prefix tells the book
    chapters = {"fig-ch03_01_11": "fig-ch03", "fig-ch04_04_01abc": "fig-ch04"}
    chapters["OSC_Microbio_03_03_ProkTable"] = "OSC_Microbio_03"
    assert frame.set_index("id")["group"][list(chapters)].tolist() == list(chapters.values())
    assert frame["captions"].map(len).eq(2).all()


def test_both_samplers_are_made_from_groups_alone() -> None:
    groups = np.repeat(np.arange(32), 5)
    for name, kind in (("uniform", UniformSampler), ("group", GroupSampler)):
        cfg = config("+data=default", f"+sampler={name}")
        sampler = instantiate(cfg.sampler, groups=groups)
        assert isinstance(sampler, kind)
        assert len(sampler.batch(0)) == 64
