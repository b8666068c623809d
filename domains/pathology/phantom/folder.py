"""Makes the whole cohort in a folder, once."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.types import UserError
from domains.pathology.phantom import slides
from domains.pathology.phantom.captions import compose
from domains.pathology.phantom.cohort import SlidePlan, plan
from domains.pathology.phantom.diseases import Leaf, leaves, to_obo
from domains.pathology.phantom.tissue import MPP, Stain

COLUMNS = ("path", "id", "slide", "group", "label", "concepts", "caption", "x", "y", "w", "h", "mpp", "split")


def make(folder: str | Path, seed: int = 0, patients: int = 48, linked: bool = True) -> Path:
    """Makes a synthetic cohort of whole slides, or takes the one that is there from the same recipe.

    Writes ``manifest.csv`` (one row a field of view), ``phantom.obo`` (the hierarchy), ``slides/*.tiff`` (pyramids of
    0.5 microns per pixel), ``truth/*.geojson`` (outlines of the planted lesions, level-0 pixels) and ``recipe.json``.
    All of it appears at once: it is made beside ``folder`` and renamed. Equal arguments give equal bytes with the same
    versions of numpy, Pillow and tifffile.

    Args:
        folder: where the cohort goes; made anew when it holds a phantom of another recipe.
        seed: all randomness.
        patients: 12 or more; a quarter of them is for testing. Every fourth patient has two slides.
        linked: whether leaves of a family look alike (the hierarchy is informative).

    Returns:
        Path of ``manifest.csv``.

    Raises:
        UserError: too few patients, the folder holds something else, or it cannot be written.
    """
    folder = Path(folder)
    recipe = {"phantom": "pathology", "seed": seed, "patients": patients, "linked": linked, "drawing": _own_code()}
    manifest = folder / "manifest.csv"
    if _recipe_of(folder) == recipe:
        return manifest
    if folder.exists() and any(folder.iterdir()) and _recipe_of(folder) is None:
        raise UserError(
            f"cannot make a phantom in '{folder}': it holds something else", todo="name an empty or a new folder"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        try:
            _write(made, seed, patients, linked)
            (made / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
            made.chmod(0o755)
            _put(made, folder, recipe)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write the phantom to '{folder}': {error.strerror or error}",
            todo="free space or choose a writable folder",
        ) from error
    return manifest


def _write(folder: Path, seed: int, patients: int, linked: bool) -> None:
    classes = leaves(linked)
    (folder / "slides").mkdir()
    (folder / "truth").mkdir()
    (folder / "phantom.obo").write_text(to_obo(linked), encoding="utf-8")
    with open(folder / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        for number, slide in enumerate(plan(patients, classes, np.random.default_rng((seed, 0)))):
            stain = Stain.draw(np.random.default_rng((seed, 1, int(slide.patient[1:]))))
            rng = np.random.default_rng((seed, 2, number))
            drawn = slides.draw(slide, classes, stain, rng)
            slides.write(folder / "slides" / f"{slide.name}.tiff", drawn.pixels)
            truth = json.dumps(_geojson(slide, drawn, classes))
            (folder / "truth" / f"{slide.name}.geojson").write_text(truth + "\n")
            table.writerows(_rows(slide, drawn, classes, rng))


def _rows(
    plan: SlidePlan, drawn: slides.Slide, classes: Sequence[Leaf], rng: np.random.Generator
) -> list[dict[str, object]]:
    rows = []
    for number, field in enumerate(drawn.fields):
        caption = compose(classes[field.leaf], rng)
        lesion = f"L{field.lesion + 1}" if field.lesion >= 0 else "N"
        rows.append(
            {
                "path": f"slides/{plan.name}.tiff",
                "id": f"{plan.name}-{lesion}-{number:02d}",
                "slide": plan.name,
                "group": plan.patient,
                "label": classes[field.leaf].concept.name,
                "concepts": "" if caption.concept is None else caption.concept.id,
                "caption": caption.text,
                "x": field.x,
                "y": field.y,
                "w": slides.FIELD_PX,
                "h": slides.FIELD_PX,
                "mpp": MPP,
                "split": plan.split,
            }
        )
    return rows


def _geojson(plan: SlidePlan, drawn: slides.Slide, classes: Sequence[Leaf]) -> dict[str, object]:
    """Outlines as QuPath reads them."""
    features = []
    for code, outline in zip(plan.leaves, drawn.outlines, strict=True):
        clipped = np.clip(outline, 0, (slides.WIDTH_PX, slides.HEIGHT_PX)).round(1).tolist()
        concept = classes[code].concept
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [[*clipped, clipped[0]]]},
                "properties": {
                    "objectType": "annotation",
                    "classification": {"name": concept.name},
                    "concept": concept.id,
                    "synthetic": True,
                },
            }
        )
    return {"type": "FeatureCollection", "features": features}


def _put(made: Path, folder: Path, recipe: dict[str, object]) -> None:
    """Renames the finished cohort into place; another process may have been quicker with the same recipe."""
    if folder.exists():
        if _recipe_of(folder) == recipe:
            return
        old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-"))
        os.replace(folder, old)
        shutil.rmtree(old)
    try:
        os.rename(made, folder)
    except OSError:
        if _recipe_of(folder) != recipe:
            raise


def _recipe_of(folder: Path) -> dict[str, object] | None:
    """The recipe of the cohort in a folder; it is the last file of a cohort to be written."""
    try:
        recipe = json.loads((folder / "recipe.json").read_text())
    except (OSError, ValueError):
        return None
    return recipe if isinstance(recipe, dict) and recipe.get("phantom") == "pathology" else None


def _own_code() -> str:
    """Hash of this package's source: another drawing is another recipe."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
