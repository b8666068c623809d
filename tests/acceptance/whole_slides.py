"""Point 1 of ``tests.acceptance.mil``: a tower, its features, every head and every task on synthetic whole slides."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.acceptance.harness import Report, latest, run, summary, verb

ATTENTION = ("abmil", "gated_abmil", "clam", "dsmil", "transmil")  # heads that weigh tiles by what they see of them
HEADS = ("mean", "max", "topk", *ATTENTION, "prototypes")
POOLING = ("mean", "max", "topk", "abmil", "gated_abmil", "clam", "dsmil")
SEEDS = (0, 1, 2)
TASKS = {
    "cox": ("experiment=slides", "bag_task=cox", "step=plain"),
    "discrete_hazard": ("experiment=slides", "bag_task=discrete_hazard",),
    "ordinal": ("experiment=slides", "bag_task=ordinal", "bags.columns=[grade]", "bags.classes=[G1,G2,G3]"),
    "multilabel": ("experiment=slides", "bag_task=multilabel", "bags.columns=[label.necrosis,label.lymphocytes]",
                   "bags.findings=[necrosis,lymphocytes]"),
    "regression": ("experiment=slides", "bag_task=regression", "bags.columns=[necrotic_share]"),
    "slide_text": ("experiment=slides", "bag_task=alignment", "step=plain"),
    "songci": ("experiment=songci", "+cohort=whole_slides", "bags.note=synthetic"),
}  # fmt: skip
LONG, WIDTH = 100_000, 512


def whole_slides(report: Report, folder: Path) -> None:
    """1: synthetic slides, so every figure of it is synthetic."""
    done = verb("train", "evaluation.controls.resnet18=null", folder=folder)
    report.check("1", done.status == 0, "tower_exit_status", done.status)
    features = folder / "features"
    tower = f"run={latest(folder, 'train', experiment='default')}"
    done = verb("embed", tower, "cohort=whole_slides", f"out={features}", folder=folder)
    report.check("1", done.status == 0, "embed_exit_status", f"{done.status} ({done.value('tiles'):.0f} tiles)")
    _heads(report, folder, features)
    _tasks(report, folder, features)
    _long_slides(report, folder / "long")


def _heads(report: Report, folder: Path, features: Path) -> None:
    keys = (f"bags.features={features}", "bags.of=id", f"aggregator={','.join(HEADS)}",
            f"seed={','.join(map(str, SEEDS))}")  # fmt: skip
    done = verb("train", "-m", "experiment=slides", *keys, folder=folder)
    sweep = latest(folder, "train", experiment="slides")
    jobs = [path for path in sweep.iterdir() if path.name.isdecimal()]
    finished = (done.status, len(jobs)) == (0, len(HEADS) * len(SEEDS))
    report.check("1", finished, "heads_exit_status", f"{done.status}, {len(jobs)} runs in {done.seconds:.0f} s")
    found: dict[str, list[dict[str, dict[str, Any]]]] = defaultdict(list)
    for job in jobs:
        target = yaml.safe_load((job / "config.yaml").read_text())["aggregator"]["_target_"]
        found[target.split(".")[-2]].append(summary(job))
    most = max(float(line.split()[-1]) for line in done.output.splitlines() if line.startswith("prevalence of the"))
    report.check("1", most <= 0.1, "largest_lesion_prevalence", most)
    for head in HEADS:
        first, areas = found[head][0]["bag/macro_auroc"], [run["bag/macro_auroc"] for run in found[head]]
        shown = "; ".join(f"{area['value']:.3f} ({area['low']:.3f} to {area['high']:.3f})" for area in areas)
        controls = ", ".join(f"{name} {value:.3f}" for name, value in first["controls"].items())
        report.show("1", f"{head}/slide_auroc_of_{len(areas)}_seeds", f"{shown}; {controls}")
        regions = [run["region/coverage"] for run in found[head]]
        value = statistics.median(region["value"] for region in regions)
        controls = ", ".join(f"{name} {value:.2f}" for name, value in regions[0]["controls"].items())
        text = f"{value:.2f} (median of {len(regions)} seeds; {controls})"
        if head in ATTENTION:
            report.check("1", value >= 2 and len(regions) == len(SEEDS), f"{head}/lesion_coverage", text)
        else:
            report.show("1", f"{head}/lesion_coverage", text)


def _tasks(report: Report, folder: Path, features: Path) -> None:
    for name, keys in TASKS.items():
        one = ("hydra.mode=RUN", f"output.id={name}")
        done = verb("train", *keys, f"bags.features={features}", *one, folder=folder)
        report.check("1", done.status == 0, f"{name}_exit_status", done.status)
        figures = summary(latest(folder, "train", experiment=keys[0].partition("=")[2]))
        own = {key: value for key, value in figures.items() if not key.startswith("mean_of_instances")}
        beside = all(value["controls"] for value in own.values())
        report.check("1", bool(own) and beside, f"{name}_figures_with_controls", len(own))
        for key, value in own.items():
            shown = f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}] n={value['n']}"
            report.show("1", f"{name}/{key}", f"{shown}; {value['controls']}")
        if "patient/c_index" in own:
            low = own["patient/c_index"]["low"]
            report.check("1", low > 0.5, f"{name}_c_index_low_above_chance", f"{low:.3f} > 0.5")


def _long_slides(report: Report, folder: Path) -> None:
    """Slides of 100,000 tiles through the verb, above the memory that a cohort of small ones takes."""
    from tests.core.run.bag_cohort import write_slide_features

    folder.mkdir()
    random = np.random.default_rng(0)
    lines = ["path,id,group,split,label"]
    for number in range(8):
        name, split = f"s{number}", ("train", "train", "val", "test")[number // 2]
        (folder / f"{name}.svs").write_text(name)
        count = LONG if number in (0, 7) else 200
        write_slide_features(folder, name, random.normal(size=(count, WIDTH)).astype(np.float16))
        lines.append(f"{name}.svs,{name},p{number},{split},{('normal', 'tumour')[number % 2]}")
    (folder / "slides.csv").write_text("\n".join(lines) + "\n")
    given = ("experiment=bags", f"manifest={folder / 'slides.csv'}", f"bags.features={folder / 'features'}",
             "schedule.steps=3", "schedule.warmup_steps=1", "data.workers=0", "data.cache_gib=0")  # fmt: skip
    imports = run(["-c", "import core.run.train, lightning, open_clip, timm, sklearn, time; time.sleep(2)"], folder,
                  watch_memory=True)  # fmt: skip
    for head in POOLING:
        done = verb("train", *given, f"aggregator={head}", folder=folder, watch_memory=True)
        peak = done.peak_gib - imports.peak_gib
        fits = done.status == 0 and peak <= 4
        report.check("1", fits, f"{head}_of_{LONG}_tiles_peak_gib_over_imports", f"{peak:.2f} in {done.seconds:.0f} s")
    done = verb("train", *given, "aggregator=transmil", folder=folder)
    told = " ".join(done.output.split())[-260:]
    limited = done.status == 2 and "TransMIL takes 50,000" in told and "Traceback" not in done.output
    report.check("1", limited, "transmil_says_its_limit", told)
    tests = run(["-m", "pytest", "-q", "tests/core/mil/test_aggregators.py", "-k", "chunks_change"],
                Path(__file__).resolve().parents[2])  # fmt: skip
    report.check("1", tests.status == 0, "equal_to_unchunked_1e-5", tests.output.strip().splitlines()[-1])
