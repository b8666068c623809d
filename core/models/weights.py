"""Weights files, described by an entry and loaded strictly.

A weights entry is a YAML file beside (or pointing to) a local checkpoint::

    fills: [image, text]            # which towers the file holds
    image: {tower: "open_clip:ViT-B-16"}          # arguments of build_image_tower; projection is none for open_clip
    text: {tower: "open_clip:ViT-B-16"}           # arguments of build_text_tower
    file: model.safetensors         # relative to this YAML; .safetensors, or a pickle that holds tensors alone
    sha256: 0a1b...
    inside: state_dict              # optional: key of the tensors in a file that holds more
    key_map: {visual.: image_tower.backbone., text.: text_tower.backbone., unused.: null}
    geometry: {size_px: 224, resolution: 0.5, unit: um, mean: [...], std: [...], interpolation: bicubic}
    activation: gelu                # or quick_gelu (OpenAI's CLIP): the keys cannot tell
    context_length: 77
    tokenizer: clip
    licence: CC-BY-NC-4.0

The longest matching prefix of ``key_map`` renames a key (null drops it, which is said by name); the empty prefix
matches every key.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml  # type: ignore[import-untyped]
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from core.files import atomic_write, sha256
from core.types import Geometry, UserError

if TYPE_CHECKING:
    from core.models.dual_encoder import DualEncoder
    from core.models.towers import ImageTower

log = logging.getLogger(__name__)
_PREFIXES = {"image": "image_tower.backbone.", "text": "text_tower.backbone."}
_TEMPERATURE = ("logit_scale", "logit_bias")


@dataclass(frozen=True)
class WeightsEntry:
    """One local checkpoint and everything that must agree with it."""

    path: Path  # of the entry itself
    file: Path
    sha256: str
    fills: tuple[str, ...]  # "image", "text"
    licence: str
    key_map: Mapping[str, str | None]
    image: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    inside: str = ""
    geometry: Geometry | None = None
    activation: str = "gelu"
    context_length: int | None = None
    tokenizer: str = "clip"

    @classmethod
    def read(cls, path: str | Path) -> WeightsEntry:
        """Reads an entry.

        Raises:
            UserError: missing file, unknown or missing key, a tower filled but not described.
        """
        from core.models.dual_encoder import as_geometry

        path = Path(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"weights entry cannot be read: {error}", str(path)) from error
        keys = [entry.name for entry in fields(cls) if entry.name != "path"]
        if not isinstance(values, dict):
            raise UserError("weights entry is no mapping", str(path), f"write a YAML file with {', '.join(keys)}")
        unknown = sorted(set(values) - set(keys))
        missing = sorted({"file", "sha256", "fills", "licence", "key_map"} - set(values))
        if unknown or missing:
            raise UserError(f"weights entry has unknown keys {unknown} and lacks {missing}", str(path))
        fills = tuple([values["fills"]] if isinstance(values["fills"], str) else values["fills"])
        for part in fills:
            if part not in _PREFIXES or "tower" not in values.get(part, {}):
                raise UserError(
                    f"weights entry fills '{part}'", str(path), f"fill image or text, and name {part}.tower"
                )
        if "image" in fills and not values.get("geometry"):
            raise UserError("weights entry fills the image tower without a geometry", str(path), "add geometry")
        if values.get("activation", "gelu") not in ("gelu", "quick_gelu"):
            raise UserError(f"activation is '{values['activation']}'", str(path), "use gelu or quick_gelu")
        geometry = as_geometry(values["geometry"]) if values.get("geometry") else None
        file = path.parent / values["file"]
        return cls(**{**values, "path": path, "file": file, "fills": fills, "geometry": geometry})

    def image_arguments(self) -> dict[str, Any]:
        """Arguments of ``build_image_tower`` that the entry fixes."""
        return {"model_args": None, **self.image, "activation": self.activation}

    def text_arguments(self) -> dict[str, Any]:
        """Arguments of ``build_text_tower`` that the entry fixes."""
        arguments = dict(self.text.get("model_args") or {})
        if self.context_length is not None:
            arguments["context_length"] = self.context_length
        return {**self.text, "model_args": arguments, "activation": self.activation}


def read_tensors(file: Path, inside: str = "") -> dict[str, Tensor]:
    """Tensors of a safetensors file or of a pickle that holds nothing but tensors and plain containers.

    Raises:
        UserError: missing or damaged file, a pickle that holds code, or a file whose tensors lie deeper.
    """
    if not file.is_file():
        raise UserError(f"weights file '{file}' is not there", todo="weights are never downloaded: put the file there")
    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"'{file}' is a pickle that holds more than tensors, which could run code when loaded",
                        todo="convert it to .safetensors where you trust it") from error  # fmt: skip
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"weights file '{file}' is damaged: {error}") from error
    for key in inside.split(".") if inside else []:
        if not isinstance(content, dict) or key not in content:
            raise UserError(f"weights file has no '{inside}'", str(file), "correct 'inside'")
        content = content[key]
    others = (
        [key for key, value in content.items() if not isinstance(value, Tensor)] if isinstance(content, dict) else ["?"]
    )
    if others:
        raise UserError(f"weights file holds other things than tensors: {others[:5]}", str(file),
                        "name the key of the tensors as 'inside'")  # fmt: skip
    return dict(content)


def rename(state: Mapping[str, Tensor], key_map: Mapping[str, str | None]) -> tuple[dict[str, Tensor], list[str]]:
    """Renames keys by their longest matching prefix; returns the new state and the keys dropped by a null."""
    prefixes = sorted(key_map, key=len, reverse=True)
    renamed, dropped = {}, []
    for key, value in state.items():
        prefix = next((candidate for candidate in prefixes if key.startswith(candidate)), None)
        target = "" if prefix is None else key_map[prefix]
        if target is None:
            dropped.append(key)
        else:
            renamed[target + key[len(prefix or "") :]] = value
    return renamed, dropped


def fill(model: DualEncoder, entry: WeightsEntry) -> None:
    """Loads an entry into the towers it fills; every key of these towers must come from the file, and none be left.

    The temperature is taken over when the file has one.

    Raises:
        UserError: another sha256, missing, unexpected or misshapen keys, each listed.
    """
    state = _renamed(entry)
    prefixes = tuple(_PREFIXES[part] for part in entry.fills)
    expected = {key: value for key, value in model.state_dict().items() if key.startswith(prefixes)}
    temperature = {key: state.pop(key) for key in _TEMPERATURE if key in state}
    _check_keys(expected, state, str(entry.file))
    model.load_state_dict(state, strict=False)
    if "logit_scale" in temperature:
        bias = temperature.get("logit_bias")
        model.set_temperature(float(temperature["logit_scale"].exp()), None if bias is None else float(bias))
        model.temperature_loaded = True


def fill_image(tower: ImageTower, entry: WeightsEntry) -> None:
    """Loads the image side of an entry into a tower alone; what the entry says of a text side is left where it is.

    Raises:
        UserError: as :func:`fill`.
    """
    mine, text = _PREFIXES["image"], _PREFIXES["text"]
    others = (text, *_TEMPERATURE) if "text" in entry.fills else _TEMPERATURE
    state = {key: value for key, value in _renamed(entry).items() if not key.startswith(others)}
    _check_keys({f"{mine}{key}": value for key, value in tower.backbone.state_dict().items()}, state, str(entry.file))
    tower.backbone.load_state_dict({key.removeprefix(mine): value for key, value in state.items()})


def _renamed(entry: WeightsEntry) -> dict[str, Tensor]:
    """The tensors of an entry's file under our keys, after its sha256 was checked."""
    if not entry.file.is_file():
        raise UserError(f"weights file '{entry.file}' is not there", str(entry.path),
                        "weights are never downloaded: put the file there")  # fmt: skip
    found = sha256(entry.file)
    if found != entry.sha256.lower():
        raise UserError(f"weights file has sha256 {found} and the entry says {entry.sha256}", str(entry.path),
                        "this is another file: get the right one or correct the entry")  # fmt: skip
    state, dropped = rename(read_tensors(entry.file, entry.inside), entry.key_map)
    if dropped:
        log.info("%s: %d keys dropped by the key map: %s", entry.path.name, len(dropped), ", ".join(sorted(dropped)))
    return state


def _check_keys(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    missing, unexpected = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    shapes = [
        f"{key} {tuple(given[key].shape)} for {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & given.keys())
        if given[key].shape != expected[key].shape
    ]
    if missing or unexpected or shapes:
        raise UserError(
            f"weights do not fit: missing keys {missing}; unexpected keys {unexpected}; other shapes {shapes}",
            where,
            "correct the architecture or the key map of the entry",
        )


def save_trained(model: nn.Module, file: str | Path) -> None:
    """Writes a model's state dict as safetensors, atomically; no config, no code."""
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_write(file) as temporary:
        temporary.write_bytes(save(state))  # save_file tells of a full disk in an error of its own


def load_trained(model: DualEncoder, file: str | Path) -> DualEncoder:
    """Loads what :func:`save_trained` wrote into a model built from the same config; strict.

    Raises:
        UserError: missing or damaged file; keys or shapes that do not fit, each listed.
    """
    state = read_tensors(Path(file))
    if "logit_bias" in state and model.logit_bias is None:
        model.set_temperature(1.0, 0.0)  # the objective asked for a bias in training; both values are in the file
    load_strictly(model, state, str(file))
    model.temperature_loaded = True
    return model


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Loads tensors into a model that must have exactly these keys and shapes.

    Raises:
        UserError: they do not fit, each listed; ``where`` says of what.
    """
    _check_keys(model.state_dict(), state, where)
    model.load_state_dict(state)
