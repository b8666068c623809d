"""Claims about going on: one run in its own folder, a sweep without what is done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from core.types import UserError
from tests.core.run.verbs import only_run, run, use_verb


class Flaky:
    """Fails until it is told not to; remembers what it was given."""

    def __init__(self) -> None:
        self.works = False
        self.seen: list[tuple[str, DictConfig]] = []

    def __call__(self, cfg: DictConfig, folder: Path) -> int:
        self.seen.append((folder.name, cfg))
        if self.works or cfg.get("seed") in (0, 2):
            return 0
        raise UserError("stopped half-way")


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Flaky:
    flaky = Flaky()
    use_verb(monkeypatch, flaky, "train")
    return flaky


def test_a_run_goes_on_in_place_with_its_own_config(tmp_path: Path, job: Flaky) -> None:
    assert (
        run(
            "train",
            f"output.root={tmp_path}",
            "seed=7",
            "manifest_options.pattern=a ${literal}'s",
            "trainer.log_every=3",
        )
        == 2
    )
    folder = only_run(tmp_path, "train")
    before = OmegaConf.load(folder / "config.yaml")
    job.works = True
    assert run("train", f"resume={folder}", "trainer.log_every=9", f"output.root={tmp_path}") == 0
    name, cfg = job.seen[-1]
    assert name == folder.name
    assert (cfg.seed, cfg.trainer.log_every, cfg.resume) == (7, 9, str(folder))
    assert cfg.manifest_options.pattern == "a ${literal}'s"
    assert OmegaConf.load(folder / "config.yaml") == before
    assert json.loads((folder / "status.json").read_text())["state"] == "completed"


def test_what_would_change_the_result_is_refused(
    tmp_path: Path, job: Flaky, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", f"output.root={tmp_path}", "seed=7") == 2
    folder = only_run(tmp_path, "train")
    capsys.readouterr()
    assert run("train", f"resume={folder}", "schedule.steps=5") == 2
    assert "schedule.steps was 300 in that run and is 5 now" in capsys.readouterr().err
    assert run("train", f"resume={folder}", "objective=siglip") == 2
    assert "objective" in capsys.readouterr().err
    assert len(job.seen) == 1
    job.works = True
    assert run("train", f"resume={folder}", "seed=7") == 0  # saying it again changes nothing


def test_an_ended_run_is_not_gone_on_with(tmp_path: Path, job: Flaky, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", f"output.root={tmp_path}", "seed=0") == 0
    assert run("train", f"output.root={tmp_path}", "resume=latest") == 2
    assert "has ended" in capsys.readouterr().err


def test_a_sweep_goes_through_its_failures_and_sums_them_up(
    tmp_path: Path, job: Flaky, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    after: list[Path] = []
    use_verb(monkeypatch, job, "train", after_sweep=lambda folder, cfg: after.append(folder))
    assert run("train", "-m", "seed=0,1,2", f"output.root={tmp_path}", "manifest_options.pattern=a, ${b}") == 2
    shown = capsys.readouterr()
    assert [name for name, _ in job.seen] == ["0", "1", "2"]
    assert "3 (2 done, 1 failed)" in shown.out
    assert "job 1 failed with status 2: stopped half-way" in shown.err
    folder = only_run(tmp_path, "train")
    assert [path.resolve() for path in after] == [folder]
    states = [json.loads((folder / str(number) / "status.json").read_text())["state"] for number in range(3)]
    assert states == ["completed", "failed", "completed"]
    assert [OmegaConf.load(folder / str(number) / "config.yaml").seed for number in range(3)] == [0, 1, 2]

    job.works = True
    del job.seen[:]
    assert run("train", f"resume={folder}") == 0  # the sweep's folder knows what was asked
    assert [(name, cfg.resume is not None) for name, cfg in job.seen] == [("1", True)]
    assert json.loads((folder / "status.json").read_text())["state"] == "completed"


def test_an_experiment_may_ask_for_a_sweep(tmp_path: Path, job: Flaky) -> None:
    configs = tmp_path / "configs" / "experiment"
    configs.mkdir(parents=True)
    (configs / "pair.yaml").write_text(
        '# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: "0,2"\n'
    )
    arguments = ["--config-dir", str(configs.parent), "experiment=pair", f"output.root={tmp_path}"]
    assert run("train", *arguments) == 0
    assert [cfg.seed for _, cfg in job.seen] == [0, 2]
    sweep = only_run(tmp_path, "train", "pair")
    assert sorted(path.name for path in sweep.iterdir()) == ["0", "1", "status.json", "sweep.json"]
    assert (sweep / "1" / "config.yaml").is_file()
    assert run("train", *arguments, "seed=2,0") == 0  # the command line has the last word
    assert [cfg.seed for _, cfg in job.seen[2:]] == [2, 0]


def test_a_wrong_choice_ends_a_sweep_before_its_first_job(
    tmp_path: Path, job: Flaky, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "-m", "model=small,smal", f"output.root={tmp_path}") == 2
    assert "smal" in capsys.readouterr().err
    assert not job.seen


def test_a_missing_value_fails_its_job_alone(tmp_path: Path, job: Flaky, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-m", "seed=0,2", "data.name='${nothing.there}'", f"output.root={tmp_path}"]
    assert run("train", *arguments) == 2
    shown = capsys.readouterr()
    assert "nothing.there" in shown.err
    assert "Traceback" not in shown.err
    assert "2 failed" in shown.out


def test_jobs_in_one_process_leave_nothing_behind(tmp_path: Path, job: Flaky, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging
    import os

    from hydra.core.global_hydra import GlobalHydra

    monkeypatch.chdir(tmp_path)
    handlers = list(logging.getLogger().handlers)
    assert run("train", "-m", "seed=0,2") == 0
    assert Path.cwd() == tmp_path
    assert logging.getLogger().handlers == handlers
    assert not GlobalHydra.instance().is_initialized()
    assert sorted(os.listdir(tmp_path)) == ["outputs"]
