"""Towers by name: ``timm:NAME`` and ``open_clip:NAME``, always built without pretrained weights.

A name is the one the library lists; ``model_args`` go to the library unchanged (timm: keyword arguments of the
architecture; open_clip: entries of the config's ``vision_cfg`` or ``text_cfg``). Nothing is downloaded: weights come
from a local file through ``core.models.weights``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from core.types import UserError


class ImageTower(nn.Module):
    """A backbone and the projection to the shared space.

    ``forward(images)`` takes normalised floats [b, 3, H, W] and gives [b, D], not L2-normalised. ``features`` gives
    the pooled features before the projection, [b, width].
    """

    def __init__(self, backbone: nn.Module, projection: nn.Module, width: int, channels_last: bool) -> None:
        super().__init__()
        self.backbone, self.projection, self.width = backbone, projection, width
        self.channels_last = channels_last

    def features(self, images: Tensor) -> Tensor:
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        features: Tensor = self.backbone(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        projected: Tensor = self.projection(self.features(images))
        return projected


class TextTower(nn.Module):
    """A text backbone and the projection to the shared space; ``forward(tokens [c, L]) -> [c, D]``.

    Columns behind the longest caption of the batch are cut off first where the attention is causal and the end token
    is pooled (open_clip's default): they cannot reach the result, and short captions then cost what they are worth.
    """

    def __init__(self, backbone: nn.Module, projection: nn.Module, context_length: int) -> None:
        super().__init__()
        self.backbone, self.projection, self.context_length = backbone, projection, context_length
        self.trims = (
            getattr(backbone, "attn_mask", None) is not None
            and getattr(backbone, "pool_type", "") == "argmax"
            and getattr(backbone, "cls_emb", None) is None
        )

    def features(self, tokens: Tensor) -> Tensor:
        if not self.trims or len(tokens) == 0:
            features: Tensor = self.backbone(tokens)
            return features
        longest = int(tokens.argmax(dim=1).max()) + 1  # the end token has the largest id
        mask = cast(Tensor, self.backbone.attn_mask)[:longest, :longest]
        trimmed: Tensor = torch.func.functional_call(self.backbone, {"attn_mask": mask}, (tokens[:, :longest],))
        return trimmed

    def forward(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self.projection(self.features(tokens))
        return projected

    @property
    def word_width(self) -> int:
        """Width of :meth:`words`."""
        return int(cast(int, self.backbone.width))

    def words(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What an open_clip transformer makes of every token: states [c, L, width], and which are words [c, L] bool.

        The start and the end token and the padding are no words. Columns behind the longest text are cut off.
        """
        end = tokens.argmax(dim=1)  # the end token has the largest id
        place = torch.arange(tokens.shape[1], device=tokens.device)
        inside = (place > 0) & (place < end[:, None])
        run = cast(Callable[..., dict[str, list[Tensor]]], self.backbone.forward_intermediates)
        how = {"normalize_intermediates": True, "intermediates_only": True, "output_fmt": "NLC"}
        (states,) = run(tokens, indices=1, **how)["text_intermediates"]
        longest = int(end.max()) + 1 if len(tokens) else 0
        return states[:, :longest], inside[:, :longest]


def build_image_tower(
    tower: str,
    embed_dim: int | None,
    size_px: int,
    model_args: Mapping[str, Any] | None = None,
    projection: str = "linear",
    channels_last: bool = False,
    activation: str | None = None,
) -> ImageTower:
    """Builds an image tower from scratch.

    Args:
        tower: ``timm:NAME`` (pooled features of ``num_classes=0``) or ``open_clip:NAME`` (the image side of a config).
        embed_dim: width of the shared space; None: that of the backbone, without a projection.
        size_px: side of the square input; given to towers whose shape depends on it.
        model_args: passed to the library.
        projection: ``linear``, ``mlp`` or ``none`` (features are used as they are; needs ``width == embed_dim``).
            An open_clip image side ends in its own projection to ``embed_dim``: use ``none`` there.
        channels_last: memory format of the convolutions; faster on CPUs and on GPUs with bf16.
        activation: ``gelu`` or ``quick_gelu``, where a weights entry says it; None leaves it to the name.

    Raises:
        UserError: unknown name or argument; projection and width do not fit.
    """
    library, name = _split(tower)
    arguments = dict(model_args or {})
    if library == "timm":
        if activation == "quick_gelu":
            arguments.setdefault("act_layer", "quick_gelu")
        backbone, width = timm_backbone(name, size_px, arguments)
        embed_dim, projection = (width, "none") if embed_dim is None else (embed_dim, projection)
    else:
        from open_clip.model import _build_vision_tower

        config = _open_clip_config(name)
        embed_dim, projection = (config["embed_dim"], "none") if embed_dim is None else (embed_dim, projection)
        vision = {**config["vision_cfg"], "image_size": size_px, **arguments}
        backbone = _call(name, _build_vision_tower, embed_dim, vision, quick_gelu=_is_quick(config, activation))
        width = embed_dim
    if channels_last:
        backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ImageTower(backbone, _projection(projection, width, embed_dim, tower), width, channels_last)


def build_text_tower(
    tower: str,
    embed_dim: int,
    model_args: Mapping[str, Any] | None = None,
    projection: str = "none",
    activation: str | None = None,
) -> TextTower:
    """Builds the text side of an open_clip config from scratch; it ends in its own projection to ``embed_dim``.

    Args:
        tower: ``open_clip:NAME``.
        embed_dim: width of the shared space.
        model_args: entries of ``text_cfg`` to replace (``context_length``, ``width``, ``layers``, ``heads``, ...).
        projection: one more head behind the tower's own: ``none``, ``linear`` or ``mlp``.
        activation: as for the image tower.

    Raises:
        UserError: unknown name or argument; a text side that is a Hugging Face model, which would be downloaded.
    """
    library, name = _split(tower)
    if library != "open_clip":
        raise UserError(f"text tower is '{tower}'", todo="use open_clip:NAME, for example open_clip:ViT-B-32")
    from open_clip.model import _build_text_tower

    config = _open_clip_config(name)
    text = {**config["text_cfg"], **(model_args or {})}
    if text.get("hf_model_name"):
        raise UserError(f"the text side of '{tower}' is the Hugging Face model '{text['hf_model_name']}'",
                        todo="choose an open_clip name with a text transformer of its own")  # fmt: skip
    backbone = _call(name, _build_text_tower, embed_dim, text, quick_gelu=_is_quick(config, activation))
    return TextTower(backbone, _projection(projection, embed_dim, embed_dim, tower), int(backbone.context_length))


def timm_backbone(name: str, size_px: int, model_args: Mapping[str, Any] | None = None) -> tuple[nn.Module, int]:
    """A timm architecture without head or weights, and the width of its pooled features.

    Raises:
        UserError: unknown name or argument.
    """
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"{name[:6]}*")[:5]
        raise UserError(f"timm has no model '{name}'", todo=f"choose one of timm.list_models(), such as {near}")
    arguments = {"num_classes": 0, **(model_args or {})}
    published = timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        arguments.setdefault("img_size", size_px)
    backbone = _call(name, timm.create_model, name, pretrained=False, **arguments)
    return backbone, int(backbone.num_features)


def _split(tower: str) -> tuple[str, str]:
    library, _, name = tower.partition(":")
    if library not in ("timm", "open_clip") or not name:
        raise UserError(f"tower is '{tower}'", todo="write timm:NAME or open_clip:NAME")
    return library, name


def _open_clip_config(name: str) -> dict[str, Any]:
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        near = [other for other in open_clip.list_models() if other[:4] == name[:4]][:5]
        raise UserError(
            f"open_clip has no model '{name}'", todo=f"choose one of open_clip.list_models(), such as {near}"
        )
    return dict(config)


def _is_quick(config: Mapping[str, Any], activation: str | None) -> bool:
    return bool(config.get("quick_gelu", False)) if activation is None else activation == "quick_gelu"


def _call(name: str, build: Any, *positional: Any, **arguments: Any) -> Any:
    """Calls a library's constructor; an argument that it does not know is the user's mistake."""
    try:
        return build(*positional, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"'{name}' cannot be built: {error}", "model_args", "see the library's arguments") from error


def _projection(kind: str, width: int, embed_dim: int, tower: str) -> nn.Module:
    if kind == "none":
        if width != embed_dim:
            raise UserError(f"'{tower}' gives {width} features and embed_dim is {embed_dim}",
                            todo=f"set projection=linear or embed_dim={width}")  # fmt: skip
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width, embed_dim, bias=False)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, embed_dim, bias=False))
    raise UserError(f"projection is '{kind}'", todo="use none, linear or mlp")
