"""slide2vec's features: ``tile_embeddings/<id>.pt`` or ``.npz``; coordinates and scale are in ``tiles/``.

``tiles/<id>.coordinates.npz`` holds x and y in level-0 pixels, ``tiles/<id>.coordinates.meta.json`` the microns per
pixel of level 0 (``slide.base_spacing_um``) and the side of a tile there (``tiling.tile_size_lv0``).
"""

from __future__ import annotations

import json
import pickle
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from core.mil.bags import Bag
from core.types import UserError
from domains.pathology.features.common import list_files, make_bag, microns, pixels


class Slide2VecFeatures:
    """Reads slide2vec's layout; see :class:`core.mil.features.FeatureLayout`."""

    def find(self, folder: Path) -> dict[str, Path]:
        """Takes an output folder, or its ``tile_embeddings/``."""
        folder = Path(folder)
        if (folder / "tile_embeddings").is_dir():
            folder = folder / "tile_embeddings"
        return list_files(folder, (".pt", ".npz"), "slide2vec")

    def read(self, path: Path, id: str, resolution: float | None = None) -> Bag:
        path = Path(path)
        said = _json(path.with_name(f"{id}.meta.json"))
        kind = said.get("artifact_type")
        if kind != "tile_embeddings":
            raise UserError(f"slide2vec's file is of type '{kind}', not tile_embeddings", str(path))
        tiles = path.parent.parent / "tiles"
        file_name, places = tiles / f"{id}.coordinates.meta.json", tiles / f"{id}.coordinates.npz"
        scale, arrays = _json(file_name), _npz(places)
        if not {"x", "y"} <= set(arrays) or arrays["x"].ndim != 1 or arrays["x"].shape != arrays["y"].shape:
            raise UserError("slide2vec's coordinates are no x and y of each tile", str(places), "tile the slide again")
        corners = np.stack([arrays["x"], arrays["y"]], axis=1)
        side, mpp = _length(scale, "tiling", "tile_size_lv0", file_name), None
        if resolution is None:
            mpp = _length(scale, "slide", "base_spacing_um", file_name)
        if side is None:
            raise UserError("slide2vec wrote no tiling.tile_size_lv0", str(file_name), "tile the slide again")
        mpp = microns(path, resolution if resolution is not None else mpp, "slide2vec wrote no microns per pixel")
        features = _features(path)
        encoder = str(said.get("encoder_name", "slide2vec"))
        return make_bag(id, path, features, pixels(corners, path, "slide2vec") * mpp, side * mpp, encoder)


def _length(values: dict[str, Any], part: str, key: str, path: Path) -> float | None:
    """A number of a part of a JSON file; None where it is null.

    Raises:
        UserError: the part or the number is not there, or is something else; file and name are named.
    """
    inside = values.get(part)
    if not isinstance(inside, dict) or key not in inside:
        raise UserError(f"slide2vec's file has no '{part}.{key}'", str(path), "tile the slide again")
    found = inside[key]
    if found is not None and (isinstance(found, bool) or not isinstance(found, (int, float))):
        raise UserError(f"slide2vec's '{part}.{key}' is '{found}', no number", str(path), "tile the slide again")
    return None if found is None else float(found)


def _features(path: Path) -> np.ndarray:
    if path.suffix == ".npz":
        arrays = _npz(path)
        if "features" not in arrays:
            raise UserError(f"slide2vec's file has no 'features', only {sorted(arrays)}", str(path))
        return arrays["features"]
    import torch

    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, LookupError, RuntimeError, TypeError, ValueError, EOFError, OSError) as error:
        raise UserError(f"cannot be read as a tensor: {type(error).__name__}", str(path), "make it anew") from error
    if not isinstance(tensor, torch.Tensor):
        raise UserError(f"holds a {type(tensor).__name__}, not a tensor", str(path))
    array: np.ndarray = tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
    return array


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"'{path}', which belongs to slide2vec's features, cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"'{path}' is damaged: {error}", todo="make it anew") from error
    if not isinstance(values, dict):
        raise UserError(f"'{path}' holds a {type(values).__name__}, not names with values", todo="make it anew")
    return values


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, LookupError, RuntimeError, TypeError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"'{path}' cannot be read: {error}", todo="make it anew") from error
