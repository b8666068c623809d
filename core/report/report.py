"""``report.html``: one page without a network that says what was found, beside what, and on which data."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.evaluation.tables import Results, read_results
from core.files import atomic_write
from core.report import figures, page
from core.report.gallery import Shown, load_gallery
from core.types import Figure

_NAMES = {
    "zero_shot": "Zero-shot",
    "probe": "Linear probe on the embeddings",
    "resnet18": "ResNet-18 from scratch (control)",
    "floor_colour6": "Floor: colour alone",
    "floor_colour6_hog128": "Floor: colour and HOG",
    "floor_metadata": "Floor: metadata alone",
    "retrieval": "Retrieval",
}
_FAILURES = 50  # rows shown
# what a config says about method and never about data: all that is shown of a run on restricted data
_METHOD = ("seed", "model", "objective", "sampler", "task", "step", "optimiser", "schedule", "trainer", "relations")


def write_report(folder: str | Path) -> Path:
    """Writes ``report.html`` and ``figures/*.pdf, *.csv`` from what a run left in its folder.

    Reads summary.json and items.parquet, and where they are there config.yaml, metrics.csv, status.csv,
    versions.json, details/gallery.npz and maps/*.png. For data of ``data.sharing: restricted`` no text, image, id or
    path is shown.

    Raises:
        UserError: the folder has no results, or they were written by a newer version.
    """
    folder = Path(folder)
    results = read_results(folder)
    config = _config(folder / "config.yaml")
    restricted = page.get(config, "data.sharing") == "restricted"
    shown = list(results.figures)
    charts = []
    if (folder / "metrics.csv").is_file():
        for name, (plot, frame) in figures.curves(pd.read_csv(folder / "metrics.csv")).items():
            charts.append(figures.save(plot, frame, folder, name))
    models = [figure for figure in shown if not _is_control(figure.name)]  # controls are ticks beside them
    if models:
        figures.save(*figures.intervals(models), folder, "intervals")
    detail = next((d for d in results.details.values() if d.get("confusion")), {})
    confusion = ""
    if detail:
        confusion = figures.save(*figures.confusion(detail["confusion"], detail["class_names"]), folder, "confusion")
    best, worst = ([], []) if restricted else load_gallery(folder)
    context = {
        "title": _title(folder, config, restricted),
        "subtitle": _subtitle(folder, config, restricted),
        "notes": list(
            dict.fromkeys(part.strip() for f in shown for part in f.note.split(";")[0].split(",") if part.strip())
        ),
        "headline": _headline(shown),
        "cards": _cards(shown),
        "data_lines": _data_lines(config, results, restricted),
        "classes": _classes(results, detail),
        "groups": _groups(shown),
        "draws": 1000,
        "remarks": _remarks(shown),
        "charts": charts,
        "confusion": confusion,
        "best": [_thumb(item) for item in best],
        "worst": [_thumb(item) for item in worst],
        "maps": [] if restricted else _maps(folder),
        **_inputs(folder, restricted),
        "prompts": {} if restricted else detail.get("prompts", {}),
        "spread": _spread(detail.get("prompt_spread")),
        "config": page.yaml_text({k: v for k, v in config.items() if not restricted or k in _METHOD}),
        "versions": _versions(folder / "versions.json"),
    }
    target = folder / "report.html"
    with atomic_write(target) as path:
        path.write_text(page.render("report.html.j2", **context), encoding="utf-8")
    return target


def _is_control(name: str) -> bool:
    return name.startswith(("resnet18", "floor_"))


def show_name(name: str) -> str:
    """A figure's short name for people: ``image_to_text/recall@5`` -> ``Image to text, recall@5``."""
    words = name.replace("/", ", ").replace("_", " ").replace("auroc", "AUROC")
    return words[:1].upper() + words[1:]


def _title(folder: Path, config: Mapping[str, Any], restricted: bool) -> str:
    """Domain and experiment; a run without one says what data it had."""
    domain = str(page.get(config, "trivium.domain") or "").rpartition(".")[2]
    name = config.get("experiment") or _chosen(folder, "experiment")
    if not name and not restricted:
        name = page.get(config, "data.name")
    if not name and not restricted:
        name = "synthetic cohort" if config.get("manifest") is None else Path(str(config["manifest"])).stem
    words = " · ".join(part.replace("_", " ") for part in (domain, str(name or "")) if part)
    return (words[:1].upper() + words[1:]) or "Trivium run"


def _chosen(folder: Path, group: str) -> str:
    """What the command line chose of a config group, from ``status.json``; empty when it did not."""
    path = folder / "status.json"
    said = json.loads(path.read_text(encoding="utf-8")).get("overrides", []) if path.is_file() else []
    return next((text.partition("=")[2] for text in said if text.partition("=")[0] == group), "")


def _subtitle(folder: Path, config: Mapping[str, Any], restricted: bool) -> str:
    parts = ["restricted data: texts, images, ids and paths are withheld"] if restricted else [folder.name]
    objective = str(page.get(config, "objective._target_") or "").rpartition(".")[2]
    steps, seed = page.get(config, "schedule.steps"), config.get("seed")
    parts += [objective] if objective else []
    parts += [f"{steps} optimiser steps"] if steps else []
    parts += [f"seed {seed}"] if seed is not None else []
    return " · ".join(parts)


def _headline(shown: Sequence[Figure]) -> dict[str, str] | None:
    if not shown:
        return None
    figure = next((f for f in shown if f.name == "zero_shot/leaf_accuracy"), shown[0])
    evaluation, _, short = figure.name.partition("/")
    blind = {name: value for name, value in figure.controls.items() if name in ("chance", "majority")}
    sentence = ""
    if blind and not math.isnan(figure.low):
        said = " and ".join(f"{name} ({value:.3f})" for name, value in blind.items())
        above = figure.low > max(blind.values())
        sentence = f"Its 95 % interval {'lies above' if above else 'does not lie above'} {said}."
    elif math.isnan(figure.low):
        sentence = "There is no interval: too few independent units."
    others = {name: value for name, value in figure.controls.items() if name not in blind}
    if others:
        listed = ", ".join(f"{page.CONTROL_NAMES.get(name, name)} {value:.3f}" for name, value in others.items())
        sentence += f" On the same split: {listed}."
        higher = [page.CONTROL_NAMES.get(name, name) for name, value in others.items() if figure.value < value]
        sentence += f" It stays below {' and '.join(higher)}." if higher else ""
    return {
        "name": f"{_NAMES.get(evaluation, evaluation)} {show_name(short).lower()}",
        "value": _number(figure.value),
        "range": _range(figure),
        "n": str(figure.n),
        "units": _units(figure),
        "sentence": sentence,
        "strip": figures.strip(figure.value, figure.low, figure.high, figure.controls),
    }


def _cards(shown: Sequence[Figure]) -> list[dict[str, str]]:
    wanted = (
        ("zero_shot/parent_accuracy", "Zero-shot parent accuracy"),
        ("zero_shot/rare_leaf_accuracy", "Zero-shot rare leaves"),
        ("probe/leaf_accuracy", "Linear probe accuracy"),
        ("retrieval/image_to_text/recall@5", "Image to text, recall@5"),
        ("retrieval/text_to_image/recall@5", "Text to image, recall@5"),
    )
    by_name = {figure.name: figure for figure in shown}
    return [
        {"name": label, "value": _number(by_name[name].value), "range": _beside(by_name[name])}
        for name, label in wanted
        if name in by_name
    ]


def _beside(figure: Figure) -> str:
    chance = figure.controls.get("chance")
    return _range(figure) + (f", chance {_number(chance)}" if chance is not None else "")


def _groups(shown: Sequence[Figure]) -> list[dict[str, Any]]:
    """One table an evaluation, with a column for each control that any of its figures has."""
    groups = []
    for evaluation in dict.fromkeys(figure.name.partition("/")[0] for figure in shown):
        mine = [figure for figure in shown if figure.name.partition("/")[0] == evaluation]
        controls = list(dict.fromkeys(name for figure in mine for name in figure.controls))
        groups.append(
            {
                "name": _NAMES.get(evaluation, show_name(evaluation)),
                "unit": mine[0].unit,
                "control": _is_control(evaluation),
                "controls": [page.CONTROL_NAMES.get(name, name) for name in controls],
                "rows": [_row(figure, controls) for figure in mine],
            }
        )
    return groups


def _row(figure: Figure, controls: Sequence[str]) -> dict[str, Any]:
    short = figure.name.partition("/")[2]
    bounded = not short.endswith(("distance_of_errors", "rank"))
    return {
        "name": show_name(short),
        "value": _number(figure.value),
        "range": _range(figure),
        "strip": figures.strip(figure.value, figure.low, figure.high, figure.controls) if bounded else "",
        "controls": [_number(figure.controls[name]) if name in figure.controls else "" for name in controls],
        "n": f"{figure.n} ({figure.units})",
    }


def _data_lines(config: Mapping[str, Any], results: Results, restricted: bool) -> list[str]:
    lines = []
    synthetic = any("synthetic" in figure.note for figure in results.figures)
    name = page.get(config, "data.name")
    manifest = config.get("manifest")
    if synthetic:
        lines.append("A synthetic cohort made by the domain's phantom: figures prove a mechanism, not use on patients.")
    elif restricted:
        lines.append("Real data that may not be shared.")
    elif name or manifest:
        lines.append(f"{name or Path(str(manifest)).name}.")
    if any("text-prompted" in figure.note for figure in results.figures):
        lines.append("Captions were made from labels through templates: the figures are text-prompted supervision.")
    for key in () if restricted else ("attribution", "licence"):
        if page.get(config, f"data.{key}"):
            lines.append(f"{key.capitalize()}: {page.get(config, f'data.{key}')}")
    if results.figures:
        first = results.figures[0]
        lines.append(f"{first.n} evaluated items of {_units(first)}.")
    return lines


def _classes(results: Results, detail: Mapping[str, Any]) -> list[dict[str, str]]:
    if not detail:
        return []
    table = np.asarray(detail["confusion"], dtype=np.int64)
    parents = detail.get("parents") or [[] for _ in detail["class_names"]]
    rows = []
    for code, name in enumerate(detail["class_names"]):
        seen, right = int(table[code].sum()), int(table[code, code])
        rows.append(
            {
                "name": str(name).replace("_", " "),
                "parent": ", ".join(parents[code]),
                "train": str(detail["train_counts"][code]),
                "test": str(seen),
                "recall": f"{right / seen:.2f}" if seen else "–",
                "bar": page.bar(right / seen) if seen else "",
                "rare": "yes" if name in detail.get("rare", []) else "",
            }
        )
    return rows


def _inputs(folder: Path, restricted: bool) -> dict[str, Any]:
    path = folder / "status.csv"
    if not path.is_file():
        return {"statuses": "", "failures": [], "more_failures": 0}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = pd.Series([row.get("status", "") for row in rows]).value_counts().to_dict()
    said = ", ".join(f"{number} {status}" for status, number in counts.items())
    bad = [] if restricted else [row for row in rows if row.get("status") != "ok"]
    return {
        "statuses": f"{len(rows)} inputs: {said}." if rows else "",
        "failures": bad[:_FAILURES],
        "more_failures": max(len(bad) - _FAILURES, 0),
    }


def _remarks(shown: Sequence[Figure]) -> list[str]:
    """What a note says of single figures, with the figures it is about."""
    about: dict[str, list[str]] = {}
    for figure in shown:
        for remark in figure.note.split("; "):
            if " " in remark and "," not in remark.split(" ")[0]:
                about.setdefault(remark, []).append(figure.name)
    return [f"{', '.join(names)}: {remark}." for remark, names in about.items()]


def _thumb(item: Shown) -> dict[str, Any]:
    return {
        "id": item.id,
        "src": page.image_source(item.image),
        "caption": item.caption,
        "rank": item.rank,
        "retrieved": item.retrieved,
    }


def _maps(folder: Path) -> list[dict[str, str]]:
    from PIL import Image

    maps = []
    for path in sorted((folder / "maps").glob("*.png"))[:4]:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((1600, 1600))
        maps.append({"name": path.stem.replace("_", " "), "src": page.image_source(small, quality=88)})
    return maps


def _spread(spread: Mapping[str, float] | None) -> str:
    if not spread:
        return ""
    return (
        f"accuracy over {int(spread['subsets'])} random prompt sets: median {spread['median']:.3f}, "
        f"quartiles {spread['q1']:.3f} and {spread['q3']:.3f}"
    )


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _range(figure: Figure) -> str:
    return "no interval" if math.isnan(figure.low) else f"{_number(figure.low)} to {_number(figure.high)}"


def _units(figure: Figure) -> str:
    return f"{figure.units} {figure.unit}{'' if figure.units == 1 else 's'}"


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    from omegaconf import OmegaConf

    loaded = OmegaConf.to_container(OmegaConf.load(path))
    return {str(key): value for key, value in loaded.items()} if isinstance(loaded, dict) else {}


def _versions(path: Path) -> str:
    return json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=1) if path.is_file() else ""
