"""The manifest of a run: checked before torch is imported, which takes half a minute on a small machine, and read once.

pandas is all that is imported here.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from core.data.manifest import Manifest, ManifestOptions
from core.run.named import packaged

LIGHT = ("tile", "knowledge", "manifest", "compare")  # verbs that import nothing heavy before they read their manifest


def check_tables(cfg: DictConfig) -> None:
    """Reads the manifest of a config, and the second labelled set, as the verb will.

    Raises:
        UserError: whatever is wrong with the tables themselves, or none of their pictures is there.
    """
    if cfg.trivium.verb in LIGHT:
        return
    if cfg.get("manifest"):
        of_features = cfg.get("road") == "bags" or OmegaConf.select(cfg, "bags.features")
        read_manifest(Path(cfg.manifest), manifest_options(cfg), needed(cfg), not of_features)
    external = OmegaConf.select(cfg, "data.external")
    if external:
        read_manifest(Path(packaged(str(external.manifest))), external_options(external))


def manifest_options(cfg: DictConfig) -> ManifestOptions:
    """``manifest_options`` of a config; what is null there keeps its default."""
    return _options(cfg.get("manifest_options"))


def external_options(external: DictConfig) -> ManifestOptions:
    """Those of ``data.external``, which has columns and a root of its own."""
    return _options({key: external.get(key) for key in ("columns", "root")})


def needed(cfg: DictConfig) -> str | None:
    """What every picture must have to be a pair: a caption, a label, or (None) either."""
    pairs = cfg.trivium.verb == "train" and cfg.get("road", "pairs") == "pairs"
    source = OmegaConf.select(cfg, "data.captions.source") if pairs else None
    return None if source in (None, "both") else str(source)


def read_manifest(
    path: Path, options: ManifestOptions | None = None, need: str | None = None, pictures: bool = True
) -> Manifest:
    """:meth:`Manifest.read`, which is not repeated while the files stay as they are.

    Raises:
        UserError: see there.
    """
    files = [path, *([Path(options.table)] if options is not None and options.table else [])]
    stamps = tuple((file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else None for file in files)
    return _read(path, json.dumps(vars(options or ManifestOptions())), need, pictures, stamps)


@lru_cache(maxsize=2)  # a run's own set, and a second one
def _read(path: Path, options: str, need: str | None, pictures: bool, stamps: tuple[Any, ...]) -> Manifest:
    return Manifest.read(path, ManifestOptions(**json.loads(options)), need, pictures)


def _options(values: Any) -> ManifestOptions:
    plain = OmegaConf.to_container(OmegaConf.create(values or {}), resolve=True)
    assert isinstance(plain, dict)
    return ManifestOptions(**{str(key): value for key, value in plain.items() if value is not None})
