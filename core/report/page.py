"""What pages share: template and style, embedded images, small formats."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np

CONTROL_NAMES = {
    "resnet18": "ResNet-18",
    "colour6": "colour",
    "colour6_hog128": "colour + HOG",
    "metadata": "metadata alone",
}


def render(template: str, **context: Any) -> str:
    """A page from a template of this package; everything that is not marked safe is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = files("core.report")
    environment = Environment(
        loader=FileSystemLoader(str(here)), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(css=(here / "page.css").read_text(encoding="utf-8"), **context)


def image_source(image: Any, quality: int = 90) -> str:
    """A ``data:`` address of an image: uint8 [h, w, 3] or a PIL image, as JPEG."""
    from PIL import Image

    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def bar(share: float) -> str:
    """A horizontal bar for a share in 0-1, as SVG that stretches."""
    return (
        '<svg class="strip" height="10" aria-hidden="true"><rect width="100%" height="10" rx="5" fill="#eef0f4"/>'
        f'<rect width="{100 * share:.1f}%" height="10" rx="5" fill="#8a7fd0"/></svg>'
    )


def controls(values: Mapping[str, float]) -> str:
    """Controls as one line for people."""
    return ", ".join(f"{CONTROL_NAMES.get(name, name)} {value:.3f}" for name, value in values.items())


def get(config: Mapping[str, Any], dotted: str) -> Any:
    """A value of a nested mapping, or None."""
    value: Any = config
    for part in dotted.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def yaml_text(config: Mapping[str, Any]) -> str:
    """A config for reading."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dict(config))) if config else ""
