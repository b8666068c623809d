"""Trained runs in a notebook: ``core.load(run)`` and ``core.runs(folder)``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from core.run.allowlist import allowing
from core.run.folder import CONFIG, SWEEP, members
from core.run.instantiate import instantiate
from core.run.named import with_packaged
from core.run.status import STATE, read_state
from core.types import Geometry, UserError

if TYPE_CHECKING:
    import pandas as pd

    from core.models.dual_encoder import DualEncoder
    from core.run.bag_model import BagModel
    from core.run.predict import Maps

SUMMARY, WEIGHTS = "summary.json", "model.safetensors"


@dataclass(frozen=True)
class Model:
    """A trained run, ready to be asked."""

    folder: Path
    config: DictConfig  # of the run
    encoder: DualEncoder  # in evaluation mode, on the CPU
    prompts: Mapping[str, list[str]]  # the run's own, by class; empty when it had no classes
    allow: tuple[str, ...] = ()  # packages beside the suite's that its config may name

    @property
    def geometry(self) -> Geometry:
        """What a tile must be: size in pixels, and the physical size of a pixel."""
        return self.encoder.geometry

    @property
    def scale(self) -> float:
        """What cosines are multiplied with before a softmax."""
        return self.encoder.scale

    def embed_images(
        self, images: np.ndarray | Sequence[str | Path], resolution: float | None = None, batch_size: int = 128
    ) -> np.ndarray:
        """Unit vectors, float32 [N, D].

        Args:
            images: uint8 [N, 3, s, s] at the model's geometry; or paths of pictures, which the run's reader opens and
                cuts at the model's geometry around their centre.
            resolution: size of a pixel of the pictures, where they do not say it (it overrides what they say).

        Raises:
            UserError: a picture that cannot be read, or whose scale is not known to a model that needs it.
        """
        import torch

        pixels = images if isinstance(images, np.ndarray) else self._cut(images, resolution)
        with torch.inference_mode():
            parts = [
                self.encoder.encode_images(torch.from_numpy(np.ascontiguousarray(pixels[start : start + batch_size])))
                for start in range(0, len(pixels), batch_size)
            ]
        return torch.cat(parts).numpy() if parts else np.zeros((0, self.encoder.embed_dim), np.float32)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 [N, D]."""
        import torch

        with torch.inference_mode():
            vectors: np.ndarray = self.encoder.encode_texts(self.encoder.tokenize(list(texts))).numpy()
        return vectors

    def zero_shot(
        self,
        images: np.ndarray | Sequence[str | Path],
        classes: Sequence[str] | Mapping[str, Sequence[str]],
        templates: Sequence[str] | None = None,
        resolution: float | None = None,
    ) -> np.ndarray:
        """Probabilities of classes, float64 [N, C].

        Args:
            images: as for :meth:`embed_images`.
            classes: names, or names with their synonyms.
            templates: with one ``{}`` each; by default those the run was evaluated with.
            resolution: as for :meth:`embed_images`.
        """
        from core.evaluation.prompts import class_weights
        from core.evaluation.zero_shot import softmax

        names = classes if isinstance(classes, Mapping) else {name: [name] for name in classes}
        texts = list(templates or self.config.evaluation.templates)
        weights = class_weights(self.encoder, names, texts)
        probabilities: np.ndarray = softmax(self.scale * self.embed_images(images, resolution) @ weights.T)
        return probabilities

    def predict(
        self, slide: str | Path, prompts: Sequence[str], out: str | Path, resolution: float | None = None
    ) -> Maps:
        """Asks every tile of a slide and writes the map and areas into ``out``; see ``core.run.predict``.

        Raises:
            UserError: the slide cannot be used; the message says why.
        """
        from core.run.predict import map_slide

        with allowing(self.allow):
            reader = instantiate(self.config.reader)
            return map_slide(self, reader, Path(slide), list(prompts), Path(out), resolution=resolution)

    def _cut(self, paths: Sequence[str | Path], resolution: float | None) -> np.ndarray:
        from core.raster.patch import cut

        pixels = []
        with allowing(self.allow):
            reader = instantiate(self.config.reader)
        for path in paths:
            with reader.open(Path(path), resolution) as raster:
                pixels.append(cut(raster, None, self.geometry).pixels.transpose(2, 0, 1))
        return np.stack(pixels)


def load(run: str | Path, allow: Sequence[str] = ()) -> Model | BagModel:
    """Loads a trained run: a :class:`Model`, or where it learned from bags a :class:`core.run.bag_model.BagModel`.

    Args:
        run: its folder; of runs over bags also that of a sweep over seeds and folds, which is an ensemble.
        allow: packages beside the suite's that the run's config may call, such as that of its domain. Only who loads a
            run can say so: a config or a checkpoint of others runs none of their code.

    Raises:
        UserError: no run folder, no weights in it, weights that do not fit, or a package that is not allowed.
    """
    if learned_from_bags(run):
        from core.run.bag_model import load_bags

        return load_bags(run, allow)
    return load_pairs(run, allow)


def learned_from_bags(run: str | Path) -> bool:
    """Whether a run, or the first of a sweep, learned from bags.

    Raises:
        UserError: the folder holds no run.
    """
    return bool(load_config(members(Path(run))[0]).get("road", "pairs") == "bags")


def load_pairs(run: str | Path, allow: Sequence[str] = ()) -> Model:
    """Loads a run that learned from pictures with texts; see :func:`load`.

    Raises:
        UserError: as for :func:`load`, or the run learned from bags.
    """
    folder = Path(run)
    config = load_config(folder)
    details = {}
    if (folder / SUMMARY).is_file():
        details = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["details"]
    prompts = details.get("zero_shot", {}).get("prompts", {})
    with allowing(allow):
        return Model(folder, config, load_model(folder), prompts, tuple(allow))


def load_config(folder: str | Path) -> DictConfig:
    """The resolved config of a run.

    Raises:
        UserError: the folder is no run folder.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise UserError(f"'{folder}' is no run folder: it has no config.yaml", todo="give the folder of a trained run")
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return with_packaged(config)


def config_with_towers(folder: str | Path) -> DictConfig:
    """The resolved config of a run that learned from pictures.

    Raises:
        UserError: the folder is no run folder, or the run learned from bags.
    """
    config = load_config(folder)
    if config.get("road", "pairs") != "pairs":
        raise UserError(f"the run '{folder}' learned from bags: it has no towers", todo="give a run on pictures")
    return config


def load_model(folder: str | Path) -> DualEncoder:
    """The dual encoder of a run with its trained weights, in evaluation mode.

    Raises:
        UserError: there are no weights, or they do not fit.
    """
    from core.models.weights import load_trained

    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise UserError(f"the run '{folder}' has no {WEIGHTS}", todo="it did not end: go on with resume=<that folder>")
    config = config_with_towers(folder)
    # with the weights it began with, if any: their entry says the architecture
    model = build_model(config)
    load_trained(model, path)
    model.eval()
    return model


def build_model(config: DictConfig) -> DualEncoder:
    """The untrained dual encoder of a config; with ``geometry=override`` it takes pictures of any scale as they are."""
    model: DualEncoder = instantiate(config.model)
    if config.get("geometry") == "override":
        model.geometry = replace(model.geometry, resolution=None)
    return model


def runs(folder: str | Path) -> pd.DataFrame:
    """State, config and figures of every run below a folder: one row a run, those that failed or still run too.

    Columns: ``run`` (its folder), ``state`` (completed, failed, interrupted, running, dry_run) and ``error`` (None
    where there is none), every key of the config by its dotted name, every figure by its name with ``.low``, ``.high``
    and its controls (``zero_shot/leaf_accuracy.chance``). What a run does not have is NaN.

    Raises:
        UserError: there is no such folder.
    """
    import pandas as pd

    if not Path(folder).is_dir():
        raise UserError(f"there is no folder '{folder}'", todo="give a folder with runs, such as outputs")
    # a job that failed before it had a config has a state; a sweep has one too and is no run
    begun = {path.parent for name in (CONFIG, STATE) for path in Path(folder).rglob(name)}
    rows = [_row(path) for path in sorted(begun) if not (path / SWEEP).is_file()]
    return pd.DataFrame(rows)


def _row(folder: Path) -> dict[str, Any]:
    """One run of :func:`runs`."""
    state = read_state(folder)
    row: dict[str, Any] = {"run": str(folder), "state": state.get("state"), "error": state.get("error")}
    if (folder / CONFIG).is_file():
        row |= _flat(OmegaConf.to_container(load_config(folder), resolve=True))
    if (folder / SUMMARY).is_file():
        for figure in json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["figures"]:
            name = figure["name"]
            row |= {name: figure["value"], f"{name}.low": figure["low"], f"{name}.high": figure["high"]}
            row |= {f"{name}.{control}": value for control, value in figure["controls"].items()}
    return row


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat
