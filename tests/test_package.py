"""Claims about the package: pins, configs, and the wheel in an unrelated folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from packaging.requirements import Requirement

from core.run.compose import CONF, Composer, job_part
from core.run.help import VERBS
from tests.core.run.verbs import tiny_graph

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def constraints_text() -> str:
    spec = importlib.util.spec_from_file_location("constraints", ROOT / ".ci" / "constraints.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.constraints())


def test_constraints_for_pip_are_the_pins_of_the_project() -> None:
    assert (ROOT / "constraints.txt").read_text() == constraints_text()


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.14"])
def test_every_dependency_is_bounded_and_pinned_within_its_bound(python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
    pins: dict[str, str] = {}
    for pin in map(Requirement, PROJECT["tool"]["uv"]["constraint-dependencies"]):
        if pin.marker is None or pin.marker.evaluate(environment):
            name = pin.name.replace("_", "-").lower()
            assert name not in pins, f"{name} is pinned twice on {python}"
            pins[name] = next(iter(pin.specifier)).version
    wanted = PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]
    wanted += [one for extra in PROJECT["project"]["optional-dependencies"].values() for one in extra]
    for requirement in map(Requirement, wanted):
        version = pins.get(requirement.name.replace("_", "-").lower())
        assert version is not None, f"{requirement} is not pinned on {python}"
        assert requirement.specifier.contains(version), f"{requirement} and its pin {version}"


def test_nothing_pinned_is_a_prerelease_and_nothing_names_an_index() -> None:
    for pin in map(Requirement, PROJECT["tool"]["uv"]["constraint-dependencies"]):
        assert not any(part.isalpha() for part in next(iter(pin.specifier)).version.split(".post")[0]), pin
    assert "index" not in PROJECT["tool"]["uv"]
    assert "://" not in (ROOT / "constraints.txt").read_text()
    assert "<" not in PROJECT["project"]["requires-python"]


def test_the_readme_and_ci_run_the_same_tests() -> None:
    command = "pip install uv && uv run pytest"
    assert any(line.split("  #")[0].rstrip() == command for line in (ROOT / "README.md").read_text().splitlines())
    assert command in (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def choices() -> list[tuple[str, str]]:
    """(verb, override) that selects each YAML of every group, the domain's own included."""
    found = []
    for base in (CONF, CONF / "pathology"):
        for path in sorted(base.glob("*/**/*.yaml")):
            group = path.parent.relative_to(base).as_posix()
            if group.split("/")[0] in ("pathology", "verb", "hydra"):
                continue
            found.append(("train", f"{group}={path.stem}"))
    return found


@pytest.mark.parametrize(("verb", "override"), [*((verb, "") for verb in VERBS), *choices()])
def test_every_yaml_composes_and_resolves(verb: str, override: str) -> None:
    with Composer(verb, "domains.pathology") as composer:
        known = composer.compose([], sweep=True).hydra.runtime.choices
        group = override.partition("=")[0]
        overrides = [override if group in known else f"+{override}"] if override else []
        cfg = job_part(composer.compose(overrides, sweep=True))
    said = {
        "task=classification": {"task": {"classes": 2}},
        "bag_task=ordinal": {"bags": {"classes": ["low", "high"]}},
        "bag_task=multilabel": {"bags": {"findings": ["tumour"], "columns": ["label.tumour"]}},
        "evaluator=bag_regions": {"bags": {"columns": ["label"]}},
        "evaluator=bag_instances": {
            "bags": {"columns": ["label"], "features": "table.csv", "layout": {"bag": "bag"}},
            "evaluator": {"truth": "cause"},
        },
    }
    OmegaConf.set_struct(cfg, False)
    cfg = OmegaConf.merge(cfg, said.get(override, {}))  # what only the data, or the road of bags, can say
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and unpacked (a pure wheel is its own installation)."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("core", "domains", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source / name)
    pytest.importorskip("hatchling", reason="hatchling is not installed: uv sync")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=source, check=True, capture_output=True)
    wheel = next(folder.glob("*.whl"))
    shutil.unpack_archive(wheel, folder / "installed", "zip")
    return folder / "installed"


def python(installed: Path, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(installed), *environment.pop("paths", "").split(os.pathsep)]).strip(os.pathsep)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_wheel_holds_everything_that_is_no_python_file(installed: Path) -> None:
    for package in ("core", "domains", "conf"):
        ours = {
            path.relative_to(ROOT)
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert ours
        missing = [path for path in ours if not (installed / path).is_file()]
        assert not missing


def test_the_wheel_works_in_an_unrelated_folder_with_a_users_own_configs(installed: Path, tmp_path: Path) -> None:
    graph = tiny_graph(tmp_path / "a (b), c")
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(
        f'# @package _global_\nknowledge: {{path: "{graph}"}}\n', encoding="utf-8"
    )
    cli = "import sys; from core.run.cli import main; sys.exit(main(sys.argv[1:]))"
    done = python(installed, tmp_path, "-c", cli, "pathology", "knowledge", "--config-dir", "mine", "experiment=own")
    assert done.returncode == 0, done.stderr
    assert "live_terms: 2" in done.stdout
    assert (tmp_path / "outputs/pathology/knowledge/own/latest/config.yaml").is_file()


@pytest.mark.parametrize("kind", ["core", "domains"])
def test_a_folder_that_hides_ours_is_named(kind: str, installed: Path, tmp_path: Path) -> None:
    (tmp_path / kind).mkdir()
    (tmp_path / kind / "__init__.py").write_text("")
    if kind == "core":
        done = python(installed, tmp_path, "-m", "domains.pathology.knowledge", "--help")
    else:
        script = "import sys; sys.path.insert(0, '.'); from core.run.cli import main; sys.exit(main(sys.argv[1:]))"
        done = python(installed, tmp_path, "-c", script, "pathology", "knowledge", "--help")
    assert done.returncode == 2
    assert str(tmp_path / kind) in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_mistakes_import_no_torch(installed: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from core.run.entry import main; status = main('pathology', 'train', sys.argv[1:]);"
        "print(status, sorted({'torch', 'pandas', 'numpy', 'lightning'} & set(sys.modules)), 'hydra' in sys.modules)"
    )
    assert python(installed, tmp_path, "-c", script, "--help").stdout.endswith("0 [] False\n")
    for mistake in ("seeed=1", "manifest=nowhere.csv", "objective._target_=os.system"):
        assert python(installed, tmp_path, "-c", script, mistake).stdout.endswith("2 [] True\n")
