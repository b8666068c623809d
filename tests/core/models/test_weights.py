"""Weights entries: local files fill towers exactly or not at all."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import yaml
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file

from core.files import sha256
from core.models.dual_encoder import DualEncoder, build
from core.models.weights import WeightsEntry, load_trained, save_trained
from core.types import Geometry, UserError

VISION = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
TEXT = {"context_length": 12, "width": 32, "heads": 2, "layers": 1}
STANDARD_KEYS = {  # OpenAI's and open_clip's own layout
    "visual.": "image_tower.backbone.",
    "transformer.": "text_tower.backbone.transformer.",
    "token_embedding.": "text_tower.backbone.token_embedding.",
    "positional_embedding": "text_tower.backbone.positional_embedding",
    "ln_final.": "text_tower.backbone.ln_final.",
    "text_projection": "text_tower.backbone.text_projection",
}
GEOMETRY = {"size_px": 16, "resolution": 0.5, "unit": "um", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}


def write_entry(folder: Path, state: dict[str, torch.Tensor], **changes: Any) -> Path:
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "w.safetensors")
    entry = {
        "fills": ["image", "text"],
        "image": {"tower": "open_clip:ViT-B-32", "model_args": VISION, "projection": "none"},
        "text": {"tower": "open_clip:ViT-B-32", "model_args": {k: TEXT[k] for k in ("width", "heads", "layers")}},
        "file": "w.safetensors",
        "sha256": sha256(folder / "w.safetensors"),
        "key_map": STANDARD_KEYS,
        "geometry": GEOMETRY,
        "activation": "gelu",
        "context_length": TEXT["context_length"],
        "tokenizer": "clip",
        "licence": "none: random weights",
        **changes,
    }
    (folder / "entry.yaml").write_text(yaml.safe_dump(entry))
    return folder / "entry.yaml"


def expected_input(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(GEOMETRY[key])[:, None, None] for key in ("mean", "std"))
    return (images / 255 - mean) / std


def twin(quick_gelu: bool = False, custom: bool = False) -> torch.nn.Module:
    torch.manual_seed(1)
    model = (CustomTextCLIP if custom else CLIP)(16, VISION, TEXT, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # far from zero, so that activations matter
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.logit_scale.fill_(3.3)
    return model


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("custom", [False, True])
def test_open_clip_pair_equals_its_twin(tmp_path: Path, quick_gelu: bool, custom: bool) -> None:
    reference = twin(quick_gelu, custom)
    keys = {"visual.": "image_tower.backbone.", "text.": "text_tower.backbone."} if custom else STANDARD_KEYS
    entry = write_entry(
        tmp_path, reference.state_dict(), key_map=keys, activation="quick_gelu" if quick_gelu else "gelu"
    )
    model = build(None, None, embed_dim=16, weights=entry).eval()
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    tokens = model.tokenize(["a cell", "two cells, said with too many words for a context of twelve tokens", "x ! y"])
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode_images(images), reference.encode_image(expected_input(images), normalize=True)
        )
        torch.testing.assert_close(model.encode_texts(tokens), reference.encode_text(tokens, normalize=True))
    assert float(model.logit_scale.detach()) == pytest.approx(3.3)
    assert model.temperature_loaded
    assert model.geometry.mean == (0.5, 0.4, 0.3)


def test_activation_matters(tmp_path: Path) -> None:
    reference = twin(quick_gelu=True)
    model = build(None, None, embed_dim=16, weights=write_entry(tmp_path, reference.state_dict())).eval()
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        other = reference.encode_image(expected_input(images), normalize=True)
        assert (model.encode_images(images) - other).norm() > 1e-3 * other.norm()


def test_timm_vision_transformer_with_layer_scale_equals_its_twin(tmp_path: Path) -> None:
    """UNI is a timm ViT with layer scale and a dynamic image size, stored under timm's keys."""
    args = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "init_values": 1e-5, "dynamic_img_size": True}
    torch.manual_seed(2)
    reference = timm.create_model("vit_large_patch16_224", num_classes=0, img_size=16, **args).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    entry = write_entry(
        tmp_path,
        reference.state_dict(),
        fills="image",
        image={"tower": "timm:vit_large_patch16_224", "model_args": args, "projection": "linear"},
        key_map={"": "image_tower.backbone."},
    )
    model = build(
        None, {"tower": "open_clip:ViT-B-32", "model_args": TEXT}, embed_dim=16, geometry=None, weights=[entry]
    ).eval()
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(model.image_features(images), reference(expected_input(images)))
    assert not model.temperature_loaded


def test_missing_and_unexpected_keys_are_listed(tmp_path: Path) -> None:
    state = twin().state_dict()
    state["visual.extra"] = state.pop("ln_final.bias")
    with pytest.raises(UserError) as caught:
        build(None, None, embed_dim=16, weights=write_entry(tmp_path, state))
    assert "missing keys ['text_tower.backbone.ln_final.bias']" in str(caught.value)
    assert "unexpected keys ['image_tower.backbone.extra']" in str(caught.value)


def test_a_key_is_dropped_only_by_name(tmp_path: Path) -> None:
    state = {**twin().state_dict(), "head.weight": torch.zeros(2)}
    with pytest.raises(UserError, match=r"unexpected keys \['head.weight'\]"):
        build(None, None, embed_dim=16, weights=write_entry(tmp_path, state))
    build(None, None, embed_dim=16, weights=write_entry(tmp_path, state, key_map={**STANDARD_KEYS, "head.": None}))


def test_another_file_is_refused(tmp_path: Path) -> None:
    entry = write_entry(tmp_path, twin().state_dict(), sha256="0" * 64)
    with pytest.raises(UserError, match="this is another file"):
        build(None, None, embed_dim=16, weights=entry)


class Opens:
    """Pickles to a call of ``os.mkdir``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"state_dict": twin().state_dict(), "args": Opens(tmp_path / "ran")}, path)
    entry = write_entry(tmp_path, {}, file="w.pt", sha256=sha256(path), inside="state_dict")
    with pytest.raises(UserError, match="could run code"):
        build(None, None, embed_dim=16, weights=entry)
    path.write_bytes(pickle.dumps(Opens(tmp_path / "ran")))
    with pytest.raises(UserError):
        build(None, None, embed_dim=16, weights=write_entry(tmp_path, {}, file="w.pt", sha256=sha256(path)))
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_and_tensors_deeper_in_it_load(tmp_path: Path) -> None:
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in twin().state_dict().items()}}, tmp_path / "w.pt"
    )
    keys = {f"module.{key}": value for key, value in STANDARD_KEYS.items()} | {"module.logit_scale": "logit_scale"}
    changes = {"file": "w.pt", "sha256": sha256(tmp_path / "w.pt"), "key_map": keys}
    with pytest.raises(UserError, match="inside"):
        build(None, None, embed_dim=16, weights=write_entry(tmp_path, {}, **changes))
    build(None, None, embed_dim=16, weights=write_entry(tmp_path, {}, **changes, inside="state_dict"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"activation": "relu"}, "gelu or quick_gelu"),
        ({"geometry": None}, "without a geometry"),
        ({"fills": "sound"}, "sound"),
        ({"colour": "red"}, "colour"),
        ({"file": "elsewhere.safetensors"}, "never downloaded"),
        ({"tokenizer": "bert"}, "bert"),
        ({"image": {"tower": "open_clip:Nope"}}, "Nope"),
    ],
)
def test_a_wrong_entry_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(None, None, embed_dim=16, weights=write_entry(tmp_path, twin().state_dict(), **changes))


@pytest.mark.parametrize("content", [b"a: [", b"plain words", b"- a", b"\xff\x00"])
def test_what_is_no_entry_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "entry.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read|write a YAML file with file, sha256, fills"):
        WeightsEntry.read(tmp_path / "entry.yaml")


def test_a_contradicting_geometry_is_refused(tmp_path: Path) -> None:
    entry = write_entry(tmp_path, twin().state_dict())
    with pytest.raises(UserError, match="geometry"):
        build(None, None, embed_dim=16, geometry=Geometry(16, 1.0), weights=entry)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    entry = write_entry(tmp_path, twin().state_dict())
    file = tmp_path / "w.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    values = yaml.safe_load(entry.read_text())
    entry.write_text(yaml.safe_dump({**values, "sha256": sha256(file)}))
    with pytest.raises(UserError, match="damaged"):
        build(None, None, embed_dim=16, weights=entry)


def small_model(seed: int = 0) -> DualEncoder:
    torch.manual_seed(seed)
    image = {"tower": "open_clip:ViT-B-32", "model_args": VISION, "projection": "none"}
    return build(image, {"tower": "open_clip:ViT-B-32", "model_args": TEXT}, 16, Geometry(16, 0.5))


@pytest.mark.parametrize("bias", [None, -10.0])
def test_trained_weights_come_back(tmp_path: Path, bias: float | None) -> None:
    model = small_model()
    model.set_temperature(20.0, bias)
    save_trained(model, tmp_path / "model.safetensors")
    loaded = load_trained(small_model(seed=9), tmp_path / "model.safetensors")
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_entry_reads_relative_to_itself(tmp_path: Path) -> None:
    entry = WeightsEntry.read(write_entry(tmp_path, twin().state_dict()))
    assert entry.file == tmp_path / "w.safetensors"
    assert open_clip.get_model_config("ViT-B-32") is not None
