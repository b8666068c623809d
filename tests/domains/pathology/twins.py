"""Twins of slides as we, CLAM, TRIDENT, STAMP and slide2vec lay features on disk; nothing of these programs runs.

Each writer takes the folder it would be given, one slide (corners in level-0 pixels, features) with its name, and what
is to differ from a sound file; it gives the folder for ``bags.features``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from core.mil.features import write_features
from tests.core.mil.test_features import ATTRIBUTES

Slide = tuple[np.ndarray, np.ndarray]  # corners [T, 2] int64 in level-0 pixels, features [T, 6] float16

MPP, SIDE_PX = 0.25, 448  # level-0 pixels of a tile: 112 microns, 224 px at 0.5
TILES = 30
ATTRIBUTES_AT_MPP = replace(ATTRIBUTES, resolution_x=MPP, resolution_y=MPP)


def slide(seed: int = 0) -> Slide:
    """Corners in level-0 pixels and features that float16 holds exactly."""
    rng = np.random.default_rng(seed)
    cells = rng.choice(100, TILES, replace=False)
    corners = np.stack([cells % 10, cells // 10], 1).astype(np.int64) * SIDE_PX
    return corners, rng.normal(size=(TILES, 6)).astype(np.float16)


def embedded(folder: Path, made: Slide | None = None, name: str = "s1") -> Path:
    write_features(folder / f"{name}.h5", *(made or slide()), replace(ATTRIBUTES_AT_MPP, name=name))
    return folder


def clam(folder: Path, made: Slide | None = None, name: str = "s1", **changed: Any) -> Path:
    corners, features = made or slide()
    for part in ("FEATURES/h5_files", "patches"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / "FEATURES" / "h5_files" / f"{name}.h5", "w") as file:
        file.create_dataset("features", data=features.astype(np.float32), chunks=(1, 6))
        file.create_dataset("coords", data=changed.get("coords", corners.astype(np.int32)), chunks=(1, 2))
    with h5py.File(folder / "patches" / f"{name}.h5", "w") as file:
        data = file.create_dataset("coords", data=changed.get("tiled", corners))
        data.attrs.update(
            {"patch_size": 224, "patch_level": 1, "downsample": (2.0, 2.0), "level_dim": (9000, 7000), "name": name,
             "downsampled_level_dim": (4500, 3500), "save_path": "patches", **changed.get("tags", {})}
        )  # fmt: skip
        for tag in changed.get("without", ()):
            del data.attrs[tag]
    return folder / "FEATURES"


def trident(folder: Path, made: Slide | None = None, name: str = "s1", **changed: Any) -> Path:
    corners, features = made or slide()
    place = folder / "20x_224px_0px_overlap" / "features_uni_v1"
    place.mkdir(parents=True, exist_ok=True)
    with h5py.File(place / f"{name}.h5", "w") as file:
        file["features"] = changed.get("features", features)
        file["features"].attrs.update({"encoder": "uni_v1", "name": name, "savetodir": str(place)})
        file.create_dataset("coords", data=changed.get("coords", corners))
        file["coords"].attrs.update(
            {"patch_size": 224, "patch_size_level0": SIDE_PX, "overlap": 0, "target_magnification": 20,
             "level0_magnification": 40, "level0_width": 9000, "level0_height": 7000, "name": name,
             **changed.get("tags", {})}
        )  # fmt: skip
    return place


def stamp(folder: Path, made: Slide | None = None, name: str = "s1", **changed: Any) -> Path:
    corners, features = made or slide()
    place = folder / "uni-0123abcd"
    place.mkdir(parents=True, exist_ok=True)
    with h5py.File(place / f"{name}.h5", "w") as file:
        file["feats"] = features
        file["coords"] = changed.get("coords", (corners * MPP).astype(np.float32))
        tags = {"stamp_version": "2.5.0", "extractor": "uni", "unit": "um", "tile_size_um": 112.0, "tile_size_px": 224,
                "code_hash": "0123abcd", "feat_type": "tile"}  # fmt: skip
        file.attrs.update(changed["only"] if "only" in changed else {**tags, **changed.get("tags", {})})
    return place


def slide2vec(folder: Path, made: Slide | None = None, name: str = "s1", **changed: Any) -> Path:
    corners, features = made or slide()
    for part in ("tile_embeddings", "tiles"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    kind = changed.get("kind", "pt")
    if kind == "pt":
        torch.save(torch.from_numpy(changed.get("features", features)), folder / "tile_embeddings" / f"{name}.pt")
    else:
        np.savez_compressed(folder / "tile_embeddings" / f"{name}.npz", features=features)
    said = {"sample_id": name, "artifact_type": "tile_embeddings", "encoder_name": "uni", "requested_spacing_um": 0.5,
            "tile_size_lv0": SIDE_PX, "num_tiles": TILES, "feature_dim": 6, **changed.get("said", {})}  # fmt: skip
    (folder / "tile_embeddings" / f"{name}.meta.json").write_text(json.dumps(said))
    np.savez_compressed(
        folder / "tiles" / f"{name}.coordinates.npz", x=corners[:, 0], y=corners[:, 1],
        tile_index=np.arange(TILES, dtype=np.int32), tissue_fractions=np.ones(TILES, np.float32),
    )  # fmt: skip
    scale = {"slide": {"dimensions": [9000, 7000], "base_spacing_um": changed.get("mpp", MPP)},
             "tiling": {"requested_tile_size_px": 224, "tile_size_lv0": SIDE_PX},
             **changed.get("scale", {})}  # fmt: skip
    (folder / "tiles" / f"{name}.coordinates.meta.json").write_text(json.dumps(scale))
    return folder


WRITERS: dict[str, Callable[..., Path]] = {
    "embedded": embedded, "clam": clam, "trident": trident, "stamp": stamp, "slide2vec": slide2vec,
}  # fmt: skip
