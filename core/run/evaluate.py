"""The verb ``evaluate``, and how every training run ends: evaluators, gallery, map, report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console
from rich.table import Table

from core.data.module import PairsDataModule
from core.data.sharing import is_restricted, redact, sharing_key
from core.evaluation.subject import Subject
from core.evaluation.tables import write_results
from core.files import atomic_write
from core.models.dual_encoder import DualEncoder
from core.report.gallery import save_gallery
from core.report.report import write_report
from core.run.evaluating import evaluate_model
from core.run.folder import write_config
from core.run.inputs import Inputs, make_data, read_inputs
from core.run.instantiate import instantiate
from core.run.load import Model, load_config, load_model
from core.run.predict import map_slide
from core.run.status import exit_status, write_status
from core.types import Evaluation, Fate, UserError

SPLITS = "splits.csv"


def run(cfg: DictConfig, folder: Path) -> int:
    """Evaluates a trained run (``run=``) on its own test split, and on ``manifest=`` where another set is named.

    Raises:
        UserError: no run is named, or its data cannot be read.
    """
    if not cfg.run:
        raise UserError("no run to evaluate", todo="give run=<folder of a trained run> or run=latest")
    trained = Path(cfg.run)
    own: dict[str, Any] = {"allow_failures": cfg.allow_failures, "debug": cfg.debug, "evaluation": cfg.evaluation or {}}
    if cfg.manifest:
        columns, root = cfg.manifest_options.columns, cfg.manifest_options.root
        other = {"manifest": cfg.manifest, "columns": columns, "root": root, "resolution": cfg.data.resolution}
        own["data"] = {"external": {**other, "classes": cfg.classes}}
    config = OmegaConf.merge(load_config(trained), own)
    assert isinstance(config, DictConfig)
    for suffix in (".csv", ".json"):  # the same rows are tested as when it was trained
        saved = (trained / SPLITS).with_suffix(suffix)
        if not saved.is_file():
            raise UserError(f"the run has no {saved.name}", str(trained), "it did not get far: train it again")
        with atomic_write((folder / SPLITS).with_suffix(suffix)) as temporary:
            temporary.write_bytes(saved.read_bytes())
    model = load_model(trained)  # first: it names a run that cannot be evaluated
    inputs = read_inputs(config, folder)
    data = make_data(config, inputs, model)
    fates = data.prepare()
    with open_dict(config):
        config.run = str(trained)
    write_config(folder, config)  # what was evaluated, for the report and for compare
    if cfg.dry_run:
        write_status(folder, fates)
        parts = {**config.evaluation.evaluators, **config.evaluation.controls}
        print(f"test_pictures: {len(data.rows('test'))}\ntrain_pictures: {len(data.rows('train'))}")
        print(f"evaluators: {' '.join(name for name, part in parts.items() if part is not None)}")
        return exit_status(fates, cfg.allow_failures)
    return finish(config, folder, inputs, data, model)


def finish(cfg: DictConfig, folder: Path, inputs: Inputs, data: PairsDataModule, model: DualEncoder) -> int:
    """Evaluates, writes every result of a run, prints the figures, and gives the exit status."""
    evaluations, subject, more = evaluate_model(cfg, inputs, data, model)
    # files again: some may have failed since they were first read
    fates = [*inputs.manifest.fates, *data.tiles.fates(), *more]
    restricted = is_restricted(cfg.data.sharing)
    evaluations = shareable(cfg, evaluations)
    write_results(folder, evaluations)
    write_status(folder, fates)
    if not restricted:
        _gallery(folder, subject, evaluations)
        if cfg.evaluation.map:
            _map(cfg, folder, inputs, model, evaluations)
    return conclude(cfg, folder, evaluations, fates)


def conclude(cfg: DictConfig, folder: Path, evaluations: list[Evaluation], fates: Sequence[Fate]) -> int:
    """The end of every run that has results: report, figures, exit status."""
    if cfg.evaluation.get("report", True):  # runs of an older version do not say
        write_report(folder)
    print_figures(evaluations)
    if (folder / "report.html").is_file():
        wide_console().print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)
    return exit_status(fates, cfg.allow_failures)


def shareable(cfg: DictConfig, evaluations: list[Evaluation]) -> list[Evaluation]:
    """The same evaluations; of restricted data without texts, and with opaque ids."""
    if not is_restricted(cfg.data.sharing):
        return evaluations
    key = sharing_key()  # in no run: what is written beside opaque names must not unlock them
    return [_redacted(evaluation, key) for evaluation in evaluations]


def print_figures(evaluations: list[Evaluation], console: Console | None = None) -> None:
    """Figures with intervals and controls, one row each."""
    console = console or wide_console()
    table = Table("figure", "value", "95 % interval", "n", "controls", title="test split")
    for evaluation in evaluations:
        for figure in evaluation.figures:
            interval = "" if np.isnan(figure.low) else f"{figure.low:.3f} to {figure.high:.3f}"
            size = f"{figure.n} ({figure.units} {figure.unit}s)"
            controls = ", ".join(f"{name} {value:.3f}" for name, value in figure.controls.items())
            table.add_row(figure.name, f"{figure.value:.3f}", interval, size, controls)
    console.print(table)


def wide_console() -> Console:
    """A console that does not fold tables into a file or a log."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _gallery(folder: Path, subject: Subject, evaluations: list[Evaluation]) -> None:
    """Pictures of the best and worst retrievals, for the report."""
    ranked = [evaluation for evaluation in evaluations if evaluation.name == "retrieval"]
    if not ranked:
        return
    rows = subject.test.rows
    ids = subject.data.manifest.frame["id"].iloc[rows].tolist()
    items = ranked[0].items
    mine = items[items["direction"] == "image_to_text"].drop_duplicates("id").set_index("id")
    kept = [number for number, name in enumerate(ids) if name in mine.index]
    names = [ids[number] for number in kept]
    shown = mine.loc[names]
    first = [str(found[0]) for found in shown["retrieved"]]
    shown_rows, tiles = rows[kept], subject.data.tiles
    captions, ranks = shown["caption"].tolist(), shown["rank"].to_numpy()
    try:
        save_gallery(folder, lambda number: tiles.get(int(shown_rows[number])), names, captions, ranks, first)
    except (UserError, OSError) as error:  # a picture that can no longer be read costs the gallery, not the report
        wide_console().print(f"no gallery: {error}", markup=False)


def _map(cfg: DictConfig, folder: Path, inputs: Inputs, model: DualEncoder, evaluations: list[Evaluation]) -> None:
    """The run's own prompts over the slide with most test tiles, where the data are windows of slides."""
    prompts = next((e.details["prompts"] for e in evaluations if e.name == "zero_shot"), None)
    frame = inputs.manifest.frame
    windows = frame[(frame["split"] == "test") & frame["x"].notna()]
    if prompts is None or windows.empty or model.geometry.resolution is None or not cfg.areas:
        return
    slide = inputs.manifest.root / str(windows["path"].value_counts().index[0])
    try:
        map_slide(Model(folder, cfg, model, prompts), instantiate(cfg.reader), slide, (), folder)
    except UserError as error:  # a slide without enough tissue is no reason to lose the run's results
        wide_console().print(f"no map of {slide.name}: {error}", markup=False)


def _redacted(evaluation: Evaluation, key: bytes) -> Evaluation:
    harmless = [str(name) for name in evaluation.items if name not in ("id", "unit", "caption", "retrieved")]
    items = redact(evaluation.items, key, keep=harmless)
    return Evaluation(evaluation.name, items, evaluation.figures, {
        name: value for name, value in evaluation.details.items() if name not in ("prompts",)
    })  # fmt: skip
