"""Claims about ``core.load`` and ``core.runs``: what a notebook gets is what was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import core
from core.evaluation.tables import write_json
from core.models.weights import save_trained
from core.run.compose import Composer, job_part
from core.run.folder import write_config
from core.run.instantiate import instantiate
from core.run.status import write_state
from core.types import UserError
from tests.core.run.verbs import run, use_verb

PROMPTS = {"disc": ["a disc"], "square": ["a square", "a box"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A run folder with weights and figures, and the model whose weights they are."""
    folder = tmp_path_factory.mktemp("root") / "run"
    folder.mkdir()
    with Composer("train", "domains.pathology") as composer:
        cfg = job_part(composer.compose(["seed=5"]))
    write_config(folder, cfg)
    torch.manual_seed(1)
    model = instantiate(cfg.model).eval()
    save_trained(model, folder / "model.safetensors")
    figure = {"name": "zero_shot/leaf_accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "controls": {"chance": 0.25}}
    details = {"zero_shot": {"prompts": PROMPTS}}
    write_json(folder / "summary.json", {"schema_version": 1, "figures": [figure], "details": details})
    write_state(folder, state="completed")
    return folder, model


def test_a_loaded_model_embeds_as_the_trained_one(trained) -> None:
    folder, model = trained
    torch.manual_seed(99)  # whatever the state of the process
    loaded = core.load(folder)
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64), np.uint8)
    with torch.inference_mode():
        wanted = model.encode_images(torch.from_numpy(images)).numpy()
        texts = model.encode_texts(model.tokenize(["a disc"])).numpy()
    np.testing.assert_array_equal(loaded.embed_images(images), wanted)
    np.testing.assert_array_equal(loaded.embed_texts(["a disc"]), texts)
    assert loaded.embed_images(images[:0]).shape == (0, model.embed_dim)
    assert loaded.geometry == model.geometry
    assert loaded.config.seed == 5
    assert dict(loaded.prompts) == PROMPTS


def test_zero_shot_gives_probabilities_of_names_or_of_their_synonyms(trained) -> None:
    loaded = core.load(trained[0])
    images = np.random.default_rng(1).integers(0, 256, (3, 3, 64, 64), np.uint8)
    by_name = loaded.zero_shot(images, ["disc", "square", "ring"], ["an image of {}"])
    assert by_name.shape == (3, 3)
    np.testing.assert_allclose(by_name.sum(1), 1)
    one, two = loaded.zero_shot(images, PROMPTS, ["{}"]), loaded.zero_shot(images, list(PROMPTS), ["{}"])
    assert not np.allclose(one, two)
    with pytest.raises(UserError, match="no classes"):
        loaded.zero_shot(images, [])


def test_runs_are_rows_with_config_figures_and_controls(trained) -> None:
    table = core.runs(trained[0].parent)
    row = table.iloc[0]
    assert (row["seed"], row["zero_shot/leaf_accuracy"], row["zero_shot/leaf_accuracy.chance"]) == (5, 0.5, 0.25)
    assert row["objective._target_"] == "core.objectives.softmax.SoftmaxContrastive"
    assert (row["run"], row["state"], row["error"]) == (str(trained[0]), "completed", None)


def test_runs_that_did_not_end_are_rows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def job(cfg: DictConfig, folder: Path) -> int:
        if cfg.knowledge.prefix == "A":
            return 0
        raise KeyboardInterrupt if cfg.knowledge.prefix == "C" else UserError("the disk is full")

    use_verb(monkeypatch, job)
    configs = tmp_path / "configs" / "experiment"
    configs.mkdir(parents=True)
    (configs / "one.yaml").write_text("# @package _global_\n")
    (configs / "two.yaml").write_text("# @package _global_\nclasses: /nowhere.csv\n")  # fails before it has a config
    swept = ["--config-dir", str(configs.parent), "-m", "experiment=one,two", "knowledge.prefix=A,B"]
    assert run("knowledge", *swept, f"output.root={tmp_path}/out") == 2
    assert run("knowledge", "knowledge.prefix=C", f"output.root={tmp_path}/out") == 130
    write_state(tmp_path / "out" / "begun", state="running")
    table = core.runs(tmp_path / "out")
    assert table["state"].tolist() == ["running", "completed", "failed", "failed", "failed", "interrupted"]
    assert "the disk is full" in table["error"][2]
    assert "/nowhere.csv" in table["error"][3]
    assert table["knowledge.prefix"].tolist()[1:3] == ["A", "B"]


def test_what_cannot_be_loaded_says_why(trained, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        core.load(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        core.runs(tmp_path / "nowhere")
    (tmp_path / "config.yaml").write_bytes((trained[0] / "config.yaml").read_bytes())
    with pytest.raises(UserError, match="did not end"):
        core.load(tmp_path)


def test_a_config_that_calls_something_else_is_not_loaded(trained, tmp_path: Path) -> None:
    cfg = OmegaConf.load(trained[0] / "config.yaml")
    cfg.model._target_ = "subprocess.run"
    cfg.trivium.allow = ["subprocess"]  # a file widens nothing
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    (tmp_path / "model.safetensors").write_bytes((trained[0] / "model.safetensors").read_bytes())
    with pytest.raises(UserError, match="not on the list"):
        core.load(tmp_path)
