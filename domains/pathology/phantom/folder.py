"""Makes the whole cohort in a folder, once."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.progress import track

from core.types import UserError
from domains.pathology.phantom import slides
from domains.pathology.phantom.captions import compose
from domains.pathology.phantom.cohort import SlidePlan, plan
from domains.pathology.phantom.diseases import Concept, Leaf, leaves, to_obo
from domains.pathology.phantom.tissue import MPP, Stain

MANIFEST = "manifest.csv"
COLUMNS = ("path", "id", "slide", "group", "label", "concepts", "caption", "x", "y", "w", "h", "mpp", "split")


def make(folder: str | Path, seed: int = 0, patients: int = 48, linked: bool = True) -> Path:
    """Makes a synthetic cohort of whole slides below ``folder``, or takes the one that is there from the same recipe.

    A cohort lies in a folder of its own, named by its recipe: ``manifest.csv`` (one row a field of view),
    ``phantom.obo`` (the hierarchy), ``slides/*.tiff`` (pyramids of 0.5 microns per pixel), ``truth/*.geojson``
    (outlines of the planted lesions, level-0 pixels) and ``recipe.json``. All of it appears at once: it is made beside
    its place and renamed. Equal arguments give equal bytes with the same versions of numpy, Pillow and tifffile.

    Args:
        folder: where cohorts are kept; made when it is not there.
        seed: all randomness.
        patients: 12 or more; a quarter of them is for testing. Every fourth patient of a split has two slides.
        linked: whether leaves of a family look alike (the hierarchy is informative).

    Returns:
        Path of ``manifest.csv``.

    Raises:
        UserError: too few patients, or the folder cannot be written.
    """
    kind = f"{'linked' if linked else 'unlinked'}-{patients}-seed{seed}"
    plans = plan(patients, leaves(linked), np.random.default_rng((seed, 0)))
    recipe = {"phantom": "pathology", "seed": seed, "patients": patients, "linked": linked}
    return publish(folder, f"pathology-{kind}", recipe, lambda made: _write(made, plans, linked, seed)) / MANIFEST


def publish(folder: str | Path, name: str, recipe: Mapping[str, object], write: Callable[[Path], None]) -> Path:
    """Makes a cohort in a folder of its own below ``folder``, or takes the one that the same drawing made there.

    Args:
        folder: where cohorts are kept; made when it is not there.
        name: of the cohort; a hash of the drawing is added.
        recipe: kept beside the cohort as ``recipe.json``.
        write: fills a folder; what it made appears at once, renamed into its place.

    Returns:
        The cohort's folder.

    Raises:
        UserError: the folder cannot be written.
    """
    drawing = _own_code()
    place = Path(folder) / f"{name}-{drawing}"
    if (place / MANIFEST).is_file():
        return place
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder, prefix=f".{name}-"))
        try:
            write(made)
            told = {"synthetic": True, **recipe, "drawing": drawing}
            (made / "recipe.json").write_text(json.dumps(told, indent=2) + "\n")
            made.chmod(0o755)
            os.rename(made, place)
        except OSError:
            if not (place / MANIFEST).is_file():  # another process may have been quicker with the same recipe
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write the phantom to '{folder}': {error.strerror or error}",
            todo="free space or choose a writable folder",
        ) from error
    return place


def _write(folder: Path, plans: Sequence[SlidePlan], linked: bool, seed: int) -> None:
    classes = leaves(linked)
    with table_of(folder, COLUMNS, linked) as table:
        for number, slide in enumerate(track(plans, "drawing the phantom's slides", transient=True)):
            stain = Stain.draw(np.random.default_rng((seed, 1, int(slide.patient[1:]))))
            places, brush, words = (np.random.default_rng((seed, stream, number)) for stream in (2, 3, 4))
            drawn = slides.draw(slide, classes, stain, places, brush)
            save(folder, slide.name, drawn, outlines(slide, drawn, classes))
            table.writerows(_rows(slide, drawn, classes, words))


@contextmanager
def table_of(folder: Path, columns: Sequence[str], linked: bool) -> Iterator[csv.DictWriter[str]]:
    """The open table of a cohort that begins, beside its graph and the folders of its slides."""
    (folder / "slides").mkdir()
    (folder / "truth").mkdir()
    (folder / "phantom.obo").write_text(to_obo(linked), encoding="utf-8")
    with open(folder / MANIFEST, "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        yield table


def save(folder: Path, name: str, drawn: slides.Slide, truth: Mapping[str, object]) -> None:
    """Writes a slide, and a GeoJSON of what is true of it."""
    slides.write(folder / "slides" / f"{name}.tiff", drawn.pixels)
    (folder / "truth" / f"{name}.geojson").write_text(json.dumps(truth) + "\n")


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


def outlines(
    plan: SlidePlan, drawn: slides.Slide, classes: Sequence[Leaf], family: Concept | None = None
) -> dict[str, object]:
    """Outlines of a slide's lesions (of those of one family) as QuPath reads them, level-0 pixels."""
    features = []
    for code, outline in zip(plan.leaves, drawn.outlines, strict=True):
        if family is not None and classes[code].family != family:
            continue
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


def _own_code() -> str:
    """Hash of this package's source: another drawing is another recipe."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
