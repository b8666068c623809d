"""Claims about what a person meets: help, mistakes, folders, exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from core.run import cli
from core.run.help import VERBS, help_text
from core.types import UserError
from tests.core.run.verbs import only_run, run, tiny_graph, use_verb


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_says_what_it_does_its_keys_and_two_examples(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(verb, "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(VERBS[verb].does)
    assert shown.count(f"python -m domains.pathology.{verb}") >= 4  # usage, two examples, --cfg
    assert "--cfg" in shown
    assert max(map(len, shown.splitlines())) <= 140


def test_a_domain_adds_lines_to_the_help() -> None:
    assert "QuPath" in help_text("domains.pathology", "predict")


def test_the_command_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in VERBS)
    assert cli.main([]) == 2
    assert cli.main(["pathology", "fly"]) == 2
    assert "train" in error_of(capsys)
    assert cli.main(["astrology", "train"]) == 2
    assert "pathology" in error_of(capsys)


@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        ("train", ["schedule.stepps=3"], ["schedule.stepps", "schedule.steps"]),
        ("tile", ["inptu=x"], ["inptu", "input"]),
        ("knowledge", ["knowledge.pth=x", "knowledge.prefx=y"], ["knowledge.path"]),
        ("train", ["model=smal"], ["model", "smal", "small"]),
        ("train", ["experiment=nothing"], ["experiment", "nothing"]),
        ("train", ["seed=1,2"], ["seed", "-m"]),
        ("train", ["seed"], ["seed", "key=value"]),
        ("train", ["seed=[0,1]"], ["seed is [0, 1]", "a whole number"]),
        ("train", ["seed=abc"], ["seed is 'abc'", "a whole number"]),
        ("train", ["data.batch_size=x"], ["data.batch_size is 'x'", "a whole number"]),
        ("train", ["updaters=ema"], ["updaters is 'ema'", "+updater@updaters.ema=ema"]),
        ("train", ["knowledge=a.obo"], ["'knowledge' is no single value", "knowledge.<key>=...\n"]),
        ("train", ["data.name=a(b"], ["data.name=a(b", "quotes"]),
        ("train", ["model.geometry.size_px=${nothing.there}"], ["nothing.there"]),
        ("train", ["--fast"], ["--fast", "--help"]),
        ("train", ["--config-dir", "nowhere"], ["nowhere"]),
        ("train", ["objective._target_=os.system"], ["os.system", "trivium.allow=[os]"]),
        ("train", ["experiment=bags", "bag_task=multilabel"], ["bags.findings is not set", "bags.columns=[label."]),
        ("tile", ["input=/nowhere/at/all"], ["/nowhere/at/all", "does not exist"]),
        ("train", ["manifest=/nowhere/pairs.csv"], ["/nowhere/pairs.csv"]),
        ("evaluate", ["run=/nowhere/run"], ["/nowhere/run"]),
        ("evaluate", ["run=latest"], ["no trained run"]),
        ("knowledge", ["knowledge.path=[/nowhere/a.obo, /nowhere/b.obo]"], ["/nowhere/a.obo"]),
        ("train", ["resume=/nowhere/run"], ["/nowhere/run"]),
    ],
)
def test_a_mistake_is_one_paragraph_and_leaves_nothing(
    verb: str,
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(verb, *arguments) == 2
    text = error_of(capsys)
    assert text.startswith("error: ")
    assert len(text.strip().splitlines()) == 1
    assert all(word in text for word in words), text
    assert not list(tmp_path.iterdir())


def test_data_that_trivium_data_should_locate_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRIVIUM_DATA", str(tmp_path / "elsewhere"))
    assert run("train", "data=blood_cells", f"output.root={tmp_path}") == 2
    assert "set TRIVIUM_DATA" in error_of(capsys)


def test_a_run_leaves_its_config_versions_fates_and_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = tiny_graph(tmp_path / "Größe, (a=b) {x} 'y' ~ [z]")
    assert run("knowledge", f"knowledge.path={graph}", f"output.root={tmp_path}") == 0
    assert "live_terms: 2" in capsys.readouterr().out
    folder = only_run(tmp_path)
    assert OmegaConf.load(folder / "config.yaml").knowledge.path == str(graph)
    assert json.loads((folder / "versions.json").read_text())["numpy"]
    assert json.loads((folder / "status.json").read_text())["state"] == "completed"
    assert {"status.csv", "failures.csv"} <= {path.name for path in folder.iterdir()}
    assert not (folder / ".hydra").exists()


def test_two_runs_in_one_second_have_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    folders: list[Path] = []
    use_verb(monkeypatch, lambda cfg, folder: folders.append(folder) or 0)
    for _ in range(3):
        assert run("knowledge", f"output.root={tmp_path}") == 0
    assert [folder.name for folder in folders] == ["now", "now-2", "now-3"]
    assert only_run(tmp_path).name == "now-3"


def test_an_output_root_under_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    graph = tiny_graph(tmp_path)
    assert run("knowledge", f"knowledge.path={graph}", f"output.root={tmp_path}/file/below") == 2
    assert "output.root" in error_of(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "tiny.obo"]


def test_a_full_disk_and_a_defect_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(cfg: DictConfig, folder: Path) -> int:
        raise OSError(28, "No space left on device", str(folder / "items.parquet"))

    use_verb(monkeypatch, full)
    assert run("knowledge", f"output.root={tmp_path}") == 2
    assert "items.parquet" in error_of(capsys)
    state = json.loads((only_run(tmp_path) / "status.json").read_text())
    assert (state["state"], state["exit_status"]) == ("failed", 2)

    use_verb(monkeypatch, lambda cfg, folder: 1 // 0)
    assert run("knowledge", f"output.root={tmp_path}") == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(cfg: DictConfig, folder: Path) -> int:
        raise UserError("a thing is wrong", "there", "mend it")

    use_verb(monkeypatch, wrong)
    assert run("knowledge", f"output.root={tmp_path}") == 2
    assert error_of(capsys).endswith("error: a thing is wrong. there. mend it.\n")
    assert run("knowledge", f"output.root={tmp_path}", "debug=true") == 2
    assert "Traceback" in capsys.readouterr().err


def test_partial_runs_end_with_status_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_verb(monkeypatch, lambda cfg, folder: 3)
    assert run("knowledge", f"output.root={tmp_path}") == 3
    assert json.loads((only_run(tmp_path) / "status.json").read_text())["state"] == "completed"


def test_only_the_command_line_widens_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "widened"
    package.mkdir()
    (package / "__init__.py").write_text("def thing(**_): return 'made'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    configs = tmp_path / "configs"
    (configs / "experiment").mkdir(parents=True)
    (configs / "experiment" / "sly.yaml").write_text(
        "# @package _global_\ntrivium: {allow: [widened]}\nmade: {_target_: widened.thing}\n"
    )
    made: list[object] = []

    def job(cfg: DictConfig, folder: Path) -> int:
        from core.run.instantiate import instantiate

        made.append(instantiate(cfg.made))
        return 0

    use_verb(monkeypatch, job)
    arguments = ["--config-dir", str(configs), "experiment=sly", f"output.root={tmp_path}/out"]
    assert run("knowledge", *arguments) == 2
    assert "trivium.allow=[widened]" in error_of(capsys)
    assert run("knowledge", *arguments, "trivium.allow=[widened]") == 0
    assert made == ["made"]
    kept = OmegaConf.load(only_run(tmp_path / "out", experiment="sly") / "config.yaml")
    assert "allow" not in kept.trivium


def test_an_alias_is_refused_before_the_run_does_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[int] = []
    use_verb(monkeypatch, lambda cfg, folder: begun.append(1) or 0)
    assert run("knowledge", "reader._target_=core.files.os.system", f"output.root={tmp_path}") == 2
    text = error_of(capsys)
    assert "posix.system" in text
    assert "trivium.allow" in text
    assert not begun


def test_a_domain_outside_of_the_suite_brings_its_configs_and_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine" / "optics"
    (folder / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "__init__.py").write_text("")
    (folder / "__init__.py").write_text("class Reader:\n    unit = 'um'\n")
    (folder / "conf" / "domain.yaml").write_text("reader: {_target_: mine.optics.Reader}\n")
    (folder / "conf" / "experiment" / "lens.yaml").write_text("# @package _global_\nlens: 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    made: list[object] = []

    def job(cfg: DictConfig, run_folder: Path) -> int:
        from core.run.instantiate import instantiate

        made.extend([instantiate(cfg.reader).unit, cfg.lens])
        return 0

    use_verb(monkeypatch, job)
    assert cli.main(["mine.optics", "knowledge", "experiment=lens"]) == 0, capsys.readouterr().err
    assert made == ["um", 3]
    assert list((tmp_path / "outputs" / "mine.optics" / "knowledge" / "lens").iterdir())


def test_the_config_can_be_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tile", "--cfg", "job", "tile.size_px=77", "input=a, b") == 0
    shown = OmegaConf.create(capsys.readouterr().out)
    assert shown.tile.size_px == 77
    assert shown.input == "a, b"
    assert run("tile", "--cfg", "job", "tile.sizepx=77") == 2
    assert "tile.size_px" in error_of(capsys)


def test_an_interrupted_run_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(cfg: DictConfig, folder: Path) -> int:
        raise KeyboardInterrupt

    use_verb(monkeypatch, stopped)
    assert run("knowledge", f"output.root={tmp_path}") == 130
    folder = only_run(tmp_path)
    assert f"resume='{folder}'" in capsys.readouterr().err.replace("/latest", f"/{folder.name}")
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"
