"""Figures as people read them: the headline with its controls, cards, one table an evaluation, remarks, classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core.evaluation.cohort import NO_INTERVAL, NO_WIDTH
from core.report import figures, page
from core.types import Figure

_NAMES = {
    "zero_shot": "Zero-shot",
    "probe": "Linear probe on the embeddings",
    "resnet18": "ResNet-18 from scratch (control)",
    "floor_colour6": "Floor: colour alone",
    "floor_colour6_hog128": "Floor: colour and HOG",
    "floor_metadata": "Floor: metadata alone",
    "retrieval": "Retrieval",
    "ranking": "Vocabulary ranked by text",
    "mean_of_instances": "Linear model on the mean of the instances (control)",
}


def title(evaluation: str) -> str:
    """An evaluation's name for people; a control of units (``mean_of_instances_patient``) says of which."""
    base = "mean_of_instances"
    if evaluation.startswith(f"{base}_"):
        return f"{_NAMES[base]}, {show_name(evaluation.removeprefix(f'{base}_')).lower()}"
    return _NAMES.get(evaluation, show_name(evaluation))


def is_control(name: str) -> bool:
    """Whether a figure or evaluation is a control with a table of its own."""
    return name.startswith(("resnet18", "floor_", "mean_of_instances"))


def show_name(name: str) -> str:
    """A figure's short name for people: ``image_to_text/recall@5`` -> ``Image to text, recall@5``."""
    words = name.replace("/", ", ").replace("_", " ").replace("auroc", "AUROC")
    return words[:1].upper() + words[1:]


def notes(shown: Sequence[Figure]) -> list[str]:
    """What the notes of figures say of all of them (synthetic, text-prompted), each once."""
    parts = (part.strip() for figure in shown for part in of_all(figure.note).split(","))
    return list(dict.fromkeys(part for part in parts if part))


def of_all(note: str) -> str:
    """The part of a figure's note that holds for the whole run; remarks on the figure itself come behind it."""
    first = note.split(";")[0]
    return "" if first in (NO_INTERVAL, NO_WIDTH) else first


def headline(shown: Sequence[Figure]) -> dict[str, str] | None:
    """The first thing to read: zero-shot leaf accuracy where there is one, against chance and the other controls."""
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
        "units": units(figure),
        "sentence": sentence,
        "strip": figures.strip(figure.value, figure.low, figure.high, figure.controls),
    }


def cards(shown: Sequence[Figure]) -> list[dict[str, str]]:
    """The next few figures, each with its interval and chance."""
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


def groups(shown: Sequence[Figure]) -> list[dict[str, Any]]:
    """One table an evaluation, with a column for each control that any of its figures has."""
    groups = []
    for evaluation in dict.fromkeys(figure.name.partition("/")[0] for figure in shown):
        mine = [figure for figure in shown if figure.name.partition("/")[0] == evaluation]
        controls = list(dict.fromkeys(name for figure in mine for name in figure.controls))
        groups.append(
            {
                "name": title(evaluation),
                "unit": mine[0].unit,
                "control": is_control(evaluation),
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


def remarks(shown: Sequence[Figure]) -> list[str]:
    """What a note says of single figures, with the figures it is about."""
    about: dict[str, list[str]] = {}
    for figure in shown:
        for remark in figure.note.split("; "):
            if " " in remark and "," not in remark.split(" ")[0]:
                about.setdefault(remark, []).append(figure.name)
    return [f"{', '.join(names)}: {remark}." for remark, names in about.items()]


def classes(detail: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row a class: its parent, how often it was seen, how often it was recognised."""
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


def spread(found: Mapping[str, float] | None) -> str:
    """How much the accuracy depends on the choice of prompts; empty where it was not measured."""
    if not found:
        return ""
    return (
        f"accuracy over {int(found['subsets'])} random prompt sets: median {found['median']:.3f}, "
        f"quartiles {found['q1']:.3f} and {found['q3']:.3f}"
    )


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _range(figure: Figure) -> str:
    return "no interval" if math.isnan(figure.low) else f"{_number(figure.low)} to {_number(figure.high)}"


def units(figure: Figure) -> str:
    """How many independent units a figure rests on: ``12 patients``."""
    return f"{figure.units} {figure.unit}{'' if figure.units == 1 else 's'}"
