"""``report.html``: one page without a network that says what was found, beside what, and on which data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from core.evaluation.tables import read_results
from core.files import atomic_write
from core.report import figures, origin, page, wording
from core.report.bag_figures import curves_of_bags
from core.report.gallery import Shown, load_gallery


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
    config = origin.read_config(folder / "config.yaml")
    restricted = page.get(config, "data.sharing") == "restricted"
    shown = list(results.figures)
    charts = []
    if (folder / "metrics.csv").is_file():
        for name, (plot, frame) in figures.curves(pd.read_csv(folder / "metrics.csv")).items():
            charts.append(figures.save(plot, frame, folder, name))
    models = [figure for figure in shown if not wording.is_control(figure.name)]  # controls are ticks beside them
    if models:
        figures.save(*figures.intervals(models), folder, "intervals")
    detail = next((d for d in results.details.values() if d.get("confusion")), {})
    confusion = ""
    if detail:
        confusion = figures.save(*figures.confusion(detail["confusion"], detail["class_names"]), folder, "confusion")
    bags = page.get(config, "road") == "bags"
    drawn = curves_of_bags(results) if bags else {}
    best, worst = ([], []) if restricted else load_gallery(folder)
    context = {
        "title": origin.title(folder, config, restricted),
        "subtitle": origin.subtitle(folder, config, restricted),
        "notes": wording.notes(shown),
        "headline": wording.headline(shown),
        "cards": wording.cards(shown),
        "data_lines": origin.data_lines(config, results, restricted),
        "classes": wording.classes(detail),
        "groups": wording.groups(shown),
        "draws": 1000,
        "remarks": wording.remarks(shown),
        "charts": charts,
        "confusion": confusion,
        "curves": [figures.save(plot, frame, folder, name) for name, (plot, frame) in drawn.items()],
        "best": [_thumb(item) for item in best],
        "worst": [_thumb(item) for item in worst],
        "maps": [] if restricted else _maps(folder),
        **origin.inputs(folder, restricted),
        "prompts": {} if restricted else detail.get("prompts", {}),
        "spread": wording.spread(detail.get("prompt_spread")),
        "config": page.yaml_text(origin.told(config, restricted)),
        "versions": origin.versions(folder / "versions.json"),
    }
    target = folder / "report.html"
    with atomic_write(target) as path:
        path.write_text(page.render("report.html.j2", **context), encoding="utf-8")
    return target


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
