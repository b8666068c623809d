"""Two towers into one space: the model that is trained, saved, loaded and asked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.models.normalise import Normalise
from core.models.tokenizer import Tokenizer, build_tokenizer
from core.models.towers import ImageTower, TextTower, build_image_tower, build_text_tower
from core.models.weights import WeightsEntry, fill
from core.types import Geometry, Interpolation, UserError

MAX_LOGIT_SCALE = 100.0  # CLIP clips the learned scale there (Radford et al. 2021, 2.5)


class DualEncoder(nn.Module):
    """Images and texts as L2-normalised vectors of ``embed_dim``, with a learned temperature.

    ``logit_scale`` is the *logarithm* of the scale that multiplies cosines; ``logit_bias`` is None unless the
    objective needs one. The model normalises pixels itself, from its geometry.
    """

    def __init__(
        self, image_tower: ImageTower, text_tower: TextTower, embed_dim: int, geometry: Geometry, tokenizer: Tokenizer
    ) -> None:
        super().__init__()
        self.image_tower, self.text_tower = image_tower, text_tower
        self.embed_dim, self.geometry, self.tokenizer = embed_dim, geometry, tokenizer
        self.normalise = Normalise(geometry)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.logit_bias: nn.Parameter | None = None
        self.temperature_loaded = False  # True once weights brought a trained scale

    @property
    def scale(self) -> float:
        """What cosines are multiplied with: the exponential of ``logit_scale``, as a plain number."""
        return float(self.logit_scale.detach().exp())

    def image_features(self, images: Tensor) -> Tensor:
        """Pooled features before the projection, for probes: uint8 [b, 3, H, W] -> float32 [b, width]."""
        return self.image_tower.features(self.normalise(images)).float()

    def embed_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [b, D] and features [b, width] of uint8 [b, 3, H, W], from one pass through the backbone."""
        features = self.image_tower.features(self.normalise(images))
        embeddings = F.normalize(self.image_tower.projection(features).float(), dim=-1)
        return embeddings, features.float()

    def encode_images(self, images: Tensor) -> Tensor:
        """uint8 [b, 3, H, W] -> float32 [b, D], L2-normalised."""
        return F.normalize(self.image_tower(self.normalise(images)).float(), dim=-1)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """int64 [c, L] -> float32 [c, D], L2-normalised; an empty batch gives [0, D]."""
        if len(tokens) == 0:
            return self.logit_scale.new_zeros((0, self.embed_dim))
        return F.normalize(self.text_tower(tokens).float(), dim=-1)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """int64 [c, L]."""
        return self.tokenizer(texts)

    def set_temperature(self, scale: float, bias: float | None = None) -> None:
        """Starts the learned scale (and, if given, the bias) at an objective's initial values."""
        with torch.no_grad():
            self.logit_scale.fill_(math.log(scale))
        if bias is not None:
            self.logit_bias = nn.Parameter(self.logit_scale.new_tensor(bias))

    @torch.no_grad()
    def clamp(self) -> None:
        """Keeps the logarithm of the scale in [0, ln 100]; called after every optimiser step."""
        self.logit_scale.clamp_(0.0, math.log(MAX_LOGIT_SCALE))


def build(
    image: Mapping[str, Any] | None,
    text: Mapping[str, Any] | None,
    embed_dim: int,
    geometry: Geometry | Mapping[str, Any] | None = None,
    tokenizer: str = "clip",
    weights: str | Path | Sequence[str | Path] | None = None,
) -> DualEncoder:
    """Builds a dual encoder: the ``_target_`` of ``conf/model``.

    Args:
        image: arguments of :func:`core.models.towers.build_image_tower` (``tower``, ``model_args``, ...).
        text: arguments of :func:`core.models.towers.build_text_tower`.
        embed_dim: width of the shared space.
        geometry: what the image tower sees; may be None when a weights entry says it.
        tokenizer: ``clip``.
        weights: weights entries (YAML files, see :mod:`core.models.weights`). What an entry says about a tower it
            fills (architecture, activation, context, tokenizer, geometry) replaces what is said here.

    Raises:
        UserError: a tower that cannot be built, weights that do not fit, a geometry that contradicts the weights'.
    """
    paths = [weights] if isinstance(weights, str | Path) else list(weights or [])
    entries = [WeightsEntry.read(path) for path in paths]
    image_args, text_args = dict(image or {}), dict(text or {})
    chosen = geometry if isinstance(geometry, Geometry) or geometry is None else as_geometry(geometry)
    for entry in entries:
        if "image" in entry.fills:
            image_args = {**image_args, **entry.image_arguments()}
            if chosen is not None and chosen != entry.geometry:
                raise UserError(f"the model's geometry {chosen} is not that of the weights, {entry.geometry}",
                                str(entry.path), "set model.geometry=null to take that of the weights")  # fmt: skip
            chosen = entry.geometry
        if "text" in entry.fills:
            text_args, tokenizer = {**text_args, **entry.text_arguments()}, entry.tokenizer
    for name, arguments in (("image", image_args), ("text", text_args)):
        if "tower" not in arguments:
            raise UserError(f"no {name} tower is named", f"model.{name}.tower", "name one, or give weights that do")
    if chosen is None:
        raise UserError("the model has no geometry", "model.geometry", "give size_px, resolution and unit")
    text_tower = build_text_tower(embed_dim=embed_dim, **text_args)
    model = DualEncoder(
        build_image_tower(embed_dim=embed_dim, size_px=chosen.size_px, **image_args),
        text_tower,
        embed_dim,
        chosen,
        build_tokenizer(tokenizer, text_tower.context_length),
    )
    for entry in entries:
        fill(model, entry)
    return model


def as_geometry(values: Mapping[str, Any]) -> Geometry:
    """A geometry out of a config or a weights entry; lists become tuples.

    Raises:
        UserError: an unknown or missing key, or an interpolation that no reader has.
    """
    known = {field.name for field in fields(Geometry)}
    unknown = sorted(set(values) - known)
    if unknown or "size_px" not in values:
        raise UserError(f"geometry has {sorted(values)}", "geometry", f"give size_px and any of {sorted(known)}")
    filters = get_args(Interpolation)
    if values.get("interpolation", "bilinear") not in filters:
        raise UserError(f"the interpolation is '{values['interpolation']}'", "geometry.interpolation",
                        f"choose from {', '.join(filters)}")  # fmt: skip
    plain: dict[str, Any] = {key: tuple(value) if key in ("mean", "std") else value for key, value in values.items()}
    plain.setdefault("resolution", None)
    return Geometry(**plain)
