"""One image tower on its own, ready to embed: from a trained pair or a weights entry (as UNI-like encoders come)."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core.files import sha256
from core.models.dual_encoder import DualEncoder
from core.models.normalise import Normalise
from core.models.towers import ImageTower, build_image_tower
from core.models.weights import WeightsEntry, fill_image
from core.types import Geometry, UserError

SPACES = ("projected", "pooled")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ImageEncoder:
    """Tiles to features, on one device and in one precision.

    Args:
        tower: an image tower; moved to the device, in evaluation mode.
        geometry: what it was trained on.
        space: ``projected`` gives unit vectors in the space it shares with texts, ``pooled`` what its backbone gives.
        weights_sha256: of the file its weights came from.
        tower_arguments: architecture and activation, as the config or the entry has them.
        device: ``cpu``, ``cuda`` ..., or ``auto``: a GPU where there is one.
        precision: ``float32``, ``bfloat16``, ``float16``, or ``auto``: float16 on a GPU, float32 on a CPU.

    Raises:
        UserError: an unknown space, device or precision.
    """

    def __init__(
        self,
        tower: ImageTower,
        geometry: Geometry,
        space: str,
        weights_sha256: str,
        tower_arguments: Mapping[str, Any],
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        self.device = _device(device)
        self.precision = _precision(precision, self.device)
        self.tower, self.normalise = tower.to(self.device).eval(), Normalise(geometry).to(self.device)
        self.geometry, self.space, self.weights_sha256 = geometry, space, weights_sha256
        self.width = _projected_width(tower) if space == "projected" else tower.width
        everything = {"weights": weights_sha256, "tower": dict(tower_arguments), "geometry": asdict(geometry)}
        digest = hashlib.sha256(json.dumps({**everything, "space": space}, sort_keys=True).encode()).hexdigest()
        # the hash covers all that changes a feature: weights, architecture, activation, normalisation, scale, space
        self.name = f"{tower_arguments['tower']}/{space}@{digest[:12]}"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [b, s, s, 3] -> float32 [b, width]."""
        # inference and autocast modes belong to a thread, so they are entered where the work is done
        with torch.inference_mode(), self._autocast():
            pixels = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)
            features: Tensor
            if self.space == "projected":
                features = F.normalize(self.tower(self.normalise(pixels)).float(), dim=-1)
            else:
                features = self.tower.features(self.normalise(pixels)).float()
            return features.cpu().numpy()

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, PRECISIONS[self.precision])


def encoder_of_pair(
    model: DualEncoder,
    tower_arguments: Mapping[str, Any],
    weights: Path,
    space: str | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> ImageEncoder:
    """The image side of a trained pair; ``projected`` unless asked otherwise, so that texts find its features.

    Args:
        model: with its weights.
        tower_arguments: of the image tower, as the run's config has them.
        weights: the file they came from.
        space: see :class:`ImageEncoder`.
        device: see there.
        precision: see there.
    """
    return ImageEncoder(
        model.image_tower,
        model.geometry,
        _space(space, "projected"),
        sha256(weights),
        tower_arguments,
        device,
        precision,
    )


def encoder_of_entry(
    path: str | Path, space: str | None = None, device: str = "auto", precision: str = "auto"
) -> ImageEncoder:
    """The image tower of a weights entry: ``projected`` where the entry holds a text side too, else ``pooled``.

    Raises:
        UserError: the entry or its file is wrong; it holds no image tower; ``projected`` without a text side.
    """
    entry = WeightsEntry.read(path)
    if "image" not in entry.fills or entry.geometry is None:
        raise UserError("the weights entry holds no image tower", str(path), "give one with fills: image")
    space = _space(space, "projected" if "text" in entry.fills else "pooled")
    if space == "projected" and "text" not in entry.fills:
        raise UserError("space is 'projected' and the encoder shares no space with texts", str(path), "use pooled")
    arguments = {key: value for key, value in entry.image_arguments().items() if key != "projection"}
    tower = build_image_tower(embed_dim=None, size_px=entry.geometry.size_px, **arguments)
    fill_image(tower, entry)
    return ImageEncoder(tower, entry.geometry, space, entry.sha256.lower(), arguments, device, precision)


def _space(given: str | None, default: str) -> str:
    if given is not None and given not in SPACES:
        raise UserError(f"space is '{given}'", todo=f"use {' or '.join(SPACES)}")
    return given or default


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"device '{name}' cannot be used: {first}", todo="use cpu, cuda, cuda:1 ... or auto") from error
    return device


def _precision(name: str, device: torch.device) -> str:
    if name == "auto":
        return "float16" if device.type == "cuda" else "float32"
    if name not in PRECISIONS:
        raise UserError(f"precision is '{name}'", todo=f"use {', '.join(PRECISIONS)} or auto")
    return name


def _projected_width(tower: ImageTower) -> int:
    """Width after the projection: that of its last layer, or of the backbone where there is none."""
    widths = [module.out_features for module in tower.projection.modules() if isinstance(module, torch.nn.Linear)]
    return int(widths[-1]) if widths else tower.width
