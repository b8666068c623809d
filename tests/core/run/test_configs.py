"""Every shipped YAML composes, and every choice of training takes one optimiser step through the verb itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from core.run import pairs, train
from core.run.compose import CONF, Composer, job_part
from core.run.entry import main
from core.run.job import check_names, check_targets
from core.run.kinds import check_plain
from core.run.named import packaged
from core.training.fit import fit
from core.training.module import TrainingModule
from tests.core.data.cohort import DATA, needs_data

OWN = CONF / "pathology"
# groups of the primary config, and what a domain adds to it with a plus
GROUPS = ("model", "objective", "sampler", "task", "step", "optimiser", "schedule", "trainer", "logger", "evaluation")
ADDED = ("arm", "size")
OF_BAGS = {"sampler=token_budget", "step=token_groups"}  # test_bags.py takes a step with them
SMALL = ("data.phantom.patients=12", "data.batch_size=2", "schedule.steps=1", "schedule.warmup_steps=0")

StepTaker = Callable[..., TrainingModule]


def names(folder: Path) -> list[str]:
    """Choices of a group."""
    found = sorted(path.stem for path in folder.glob("*.yaml"))
    assert found, f"no YAML in {folder}"
    return found


def choices() -> list[str]:
    """Every choice that training can make on the domain's phantom, as its override; "" stands for all the defaults."""
    entries = OmegaConf.to_container(OmegaConf.load(CONF / "train.yaml"))["defaults"]
    chosen = {f"{group}={name}" for entry in entries if isinstance(entry, dict) for group, name in entry.items()}
    plain = {f"{group}={name}" for group in GROUPS for name in names(CONF / group)}
    added = [f"+{group}={name}" for group in ADDED for name in names(OWN / group)]
    added += [f"+updater@updaters.{name}={name}" for name in names(CONF / "updater")]
    return ["", *sorted(plain - chosen - OF_BAGS), *added]


def recipes() -> list[Any]:
    """Every experiment, and every data set that is in none of them; those on real data say so when they are skipped."""
    said = {name: (OWN / "experiment" / f"{name}.yaml").read_text() for name in names(OWN / "experiment")}
    said = {name: text for name, text in said.items() if "/experiment/bags" not in text}  # see test_bags.py
    alone = [name for name in names(OWN / "data") if f"/data: {name}" not in "".join(said.values())]
    real = [*(f"experiment={name}" for name in said if "/data: " in said[name]), *(f"data={name}" for name in alone)]
    synthetic = [f"experiment={name}" for name in said if "/data: " not in said[name]]
    return [*synthetic, *(pytest.param(override, marks=needs_data) for override in real)]


def composed(verb: str, *overrides: str) -> DictConfig:
    """The config of a verb of pathology; every value resolves and every ``_target_`` is allowed by its name."""
    with Composer(verb, "domains.pathology") as composer:
        cfg, _ = composer.compose_mode(overrides, multirun=False)
    OmegaConf.to_container(job_part(cfg), resolve=True)
    check_names(job_part(cfg), ())
    check_plain(job_part(cfg))
    check_targets(job_part(cfg))
    return cfg


@pytest.fixture(scope="module", autouse=True)
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all, so that the cohort is drawn once; and the real data, where they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIVIUM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TRIVIUM_DATA", str(DATA.parent))
        yield


@pytest.fixture
def take_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StepTaker:
    """The verb up to the end of training. Evaluation has tests of its own, and large models write gigabytes."""
    taken: list[tuple[list[torch.Tensor], TrainingModule]] = []

    def once(task: Any, data: Any, folder: Path, **parts: Any) -> TrainingModule:
        before = [parameter.detach().clone() for parameter in task.parameters()]
        taken.append((before, fit(task, data, folder if parts["logger"] else None, **parts)))
        return taken[-1][1]

    monkeypatch.setattr(train, "fit", once)
    monkeypatch.setattr(pairs, "finish", lambda *_: 0)

    def run(*keys: str) -> TrainingModule:
        assert main("pathology", "train", [f"output.root={tmp_path}", *SMALL, *keys]) == 0
        ((before, module),) = taken
        now = module.task.named_parameters()
        moved = [name for was, (name, parameter) in zip(before, now, strict=True) if not torch.equal(was, parameter)]
        for tower in ("image_tower", "text_tower"):
            assert any(tower in name for name in moved), f"no parameter of the {tower} moved"
        assert math.isfinite(module.latest["loss"])
        return module

    return run


@pytest.mark.parametrize("choice", choices(), ids=lambda choice: choice or "defaults")
def test_every_choice_of_training_takes_a_step(choice: str, take_step: StepTaker) -> None:
    take_step(*([choice] if choice else []))


@pytest.mark.parametrize("recipe", recipes())
def test_every_experiment_and_data_set_takes_a_step(recipe: str, take_step: StepTaker) -> None:
    take_step(recipe, "hydra.mode=RUN")


@pytest.mark.parametrize("name", names(OWN / "experiment"))
def test_every_experiment_composes_as_a_sweep_and_in_its_tiny_size(name: str) -> None:
    cfg = composed("train", f"experiment={name}")
    swept = cfg.hydra.sweeper.params
    assert swept, "an experiment here sweeps seeds or folds"
    assert set(str(swept.get("arm", "")).split(",")) <= {"", *names(OWN / "arm")}
    tiny = composed("train", f"experiment={name}", "+size=tiny")
    assert (tiny.schedule.steps, tiny.hydra.sweeper.params.seed) == (4, "0")


@pytest.mark.parametrize("name", sorted(set(names(CONF)) - {"common", "manifest_options"}))
def test_every_verb_composes(name: str) -> None:
    assert composed(name, "debug=true").debug


@pytest.mark.parametrize("name", names(OWN / "templates"))
def test_every_set_of_templates_has_one_place_for_a_name(name: str) -> None:
    templates = composed("train", f"templates@evaluation={name}").evaluation.templates
    assert len(templates) > 1
    assert all(text.count("{}") == 1 for text in templates)


@needs_data
@pytest.mark.parametrize("name", names(OWN / "knowledge"))
def test_every_graph_names_files_that_are_there(name: str) -> None:
    path = composed("train", f"+knowledge={name}").knowledge.path
    assert all(Path(packaged(file)).is_file() for file in ([path] if isinstance(path, str) else path))


@pytest.mark.parametrize("name", names(CONF / "hydra" / "launcher"))
def test_every_launcher_composes(name: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra 'cluster'")
    assert composed("train", f"hydra/launcher={name}").hydra.launcher.timeout_min > 0
