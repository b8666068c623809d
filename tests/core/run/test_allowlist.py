"""Claims about what a config may call."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from core.run.allowlist import allowing, resolve
from core.run.instantiate import instantiate
from core.types import Geometry, Policy, UserError


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "pickle.loads",
        "torch.load",
        "torch.hub.load",
        "shutil.rmtree",
        "core.files.os.system",
        "core.files.tempfile.mkstemp",
        "core.data.manifest.pd.read_pickle",
        "core.types.Geometry.__init__",
        "core.types.Geometry.__subclasshook__",
        "core.types.UserError.with_traceback",
        "core.run.entry.main",
        "core.run.instantiate.instantiate",
        "core.files.atomic_write",
        "core.types.math",
        "core.types.Relation.OWN",
        "corex.thing",
        "coreos.system",
        "",
        "core.",
        "core..types",
        "timm.models.torch.load",
        "timm.models.load_checkpoint",
    ],
)
def test_nothing_outside_the_list_is_called(name: str) -> None:
    with pytest.raises(UserError, match=r"not on the list|does not exist"):
        resolve(name)


@pytest.mark.parametrize(
    "name",
    ["core.types.Geometry", "core.types.Policy.graph", "torch.nn.Linear", "torch.optim.AdamW", "timm.create_model"],
)
def test_what_the_suite_needs_is_on_the_list(name: str) -> None:
    assert callable(resolve(name))


def test_an_outside_name_is_refused_before_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"trivium\.allow=\[trap\]"):
        resolve("trap.thing")
    assert "trap" not in sys.modules


def test_the_list_is_widened_for_a_block_or_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "widening"
    package.mkdir()
    (package / "__init__.py").write_text("import os\ndef thing(x): return x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with allowing(["widening"]):
        assert instantiate({"_target_": "widening.thing", "x": 3}) == 3
        with pytest.raises(UserError, match=r"posix\.system"):
            resolve("widening.os.system")  # its package is allowed, what it imports is not
    with pytest.raises(UserError):
        resolve("widening.thing")
    monkeypatch.setenv("TRIVIUM_ALLOW", "other, widening")
    assert resolve("widening.thing")(4) == 4


def test_inner_targets_are_built_first_and_checked() -> None:
    cfg = OmegaConf.create({
        "root": {
            "_target_": "core.types.Targets",
            "row_owner": {"_target_": "core.types.Policy.graph", "ancestors": "${kind}"},
            "column_owner": [{"_target_": "core.types.Geometry", "size_px": 64, "resolution": None}, 5],
            "_partial_": True,
        },
        "kind": "negative",
    })  # fmt: skip
    built = instantiate(cfg.root, row_group=7)
    assert built.keywords["row_owner"] == Policy.graph("negative")
    assert built.keywords["column_owner"] == [Geometry(64, None), 5]
    assert built.keywords["row_group"] == 7
    cfg.root.column_owner[0]["_target_"] = "os.system"
    with pytest.raises(UserError, match=r"root\.column_owner\[0\]\._target_"):
        instantiate(cfg.root)


def test_plain_containers_come_out_plain_and_kwargs_win() -> None:
    built = instantiate(
        OmegaConf.create({"_target_": "core.types.Geometry", "size_px": 1, "resolution": 2.0}), size_px=9
    )
    assert built == Geometry(9, 2.0)
    assert instantiate(OmegaConf.create({"a": [1, {"b": 2}]})) == {"a": [1, {"b": 2}]}
    assert instantiate(None) is None


def test_a_wrong_argument_is_told_with_its_key_and_the_right_ones() -> None:
    cfg = OmegaConf.create({"geometry": {"_target_": "core.types.Geometry", "size": 64}})
    with pytest.raises(UserError) as caught:
        instantiate(cfg.geometry)
    assert "size_px" in str(caught.value)
    assert "geometry" in caught.value.where


def test_a_mistake_within_the_call_is_not_blamed_on_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaking.py").write_text("def thing(): return len(3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with allowing(["breaking"]), pytest.raises(TypeError, match="len"):
        instantiate({"_target_": "breaking.thing"})
