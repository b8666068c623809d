"""Slides with diagnoses and findings: features with planted directions, a small taxonomy, captions that name it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.core.run.bag_cohort import write_slide_features

WIDTH = 16
FAMILIES = {
    "epithelial tumour": ("adenoma", "papilloma", "carcinoma"),
    "mesenchymal tumour": ("lipoma", "fibroma", "sarcoma"),
    "inflammation": ("abscess", "granuloma"),
}
DISEASES = tuple(name for names in FAMILIES.values() for name in names)
NEVER = ("melanoma", "lymphoma", "hamartoma", "teratoma")  # in the graph, of no slide
LOOKS = {"epithelial tumour": "grey nodule", "mesenchymal tumour": "soft lump", "inflammation": "red swelling"}


def write_text_cohort(folder: Path, patients: int = 64, seed: int = 0) -> Path:
    """``slides.csv``, ``diagnoses.csv`` and ``features/``; returns the table.

    A slide has 12 to 30 tiles; four of them lie along the direction of its disease, the others along two that all
    slides share. Earlier diseases are more frequent. Findings say the look of the family alone, and every eighth slide
    has none.
    """
    random = np.random.default_rng(seed)
    directions = np.linalg.qr(random.normal(size=(WIDTH, WIDTH)))[0]
    lines = ["path,id,group,split,caption,findings"]
    for patient in range(patients):
        number = min(int(random.integers(len(DISEASES))), int(random.integers(len(DISEASES))))
        family = next(name for name, members in FAMILIES.items() if DISEASES[number] in members)
        split, name = ("train", "train", "val", "test")[patient % 4], f"s{patient}"
        tiles = int(random.integers(12, 30))
        features = directions[len(DISEASES) + random.integers(2, size=tiles)] + 0.15 * random.normal(
            size=(tiles, WIDTH)
        )
        features[:4] = directions[number] + 0.15 * random.normal(size=(4, WIDTH))
        write_slide_features(folder, name, features.astype(np.float16))
        (folder / f"{name}.svs").write_text(name)
        findings = "" if patient % 8 == 7 else f"a {LOOKS[family]}"
        lines.append(f"{name}.svs,{name},p{patient},{split},{DISEASES[number]},{findings}")
    rows = ["id,name,parent", "D:0,disease,"]
    for place, (family, members) in enumerate(FAMILIES.items(), 1):
        rows.append(f"D:{place},{family},D:0")
        rows += [f"D:{place}{index},{member},D:{place}" for index, member in enumerate(members, 1)]
    rows += [f"D:9{index},{name},D:0" for index, name in enumerate(NEVER, 1)]
    (folder / "diagnoses.csv").write_text("\n".join(rows) + "\n")
    table = folder / "slides.csv"
    table.write_text("\n".join(lines) + "\n")
    return table
