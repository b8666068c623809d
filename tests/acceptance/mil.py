"""Learning from bags, as a user would try it: ``python -m tests.acceptance.mil [POINT ...]``.

``ACCEPTANCE_KILLS`` sets how many kills point 5 shares out to ``embed`` and to a fold (50).
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.acceptance import digits, harness
from tests.acceptance.harness import DATA, REPOSITORY, Outcome, Report, latest, rows, run, status, summary, verb
from tests.acceptance.whole_slides import whole_slides

MIL, SLIDES = DATA / "pathology" / "mil", DATA / "pathology" / "slides"
# mean of instances and logistic regression, five runs of ten folds: SOURCES.md of the data
FLOORS = {"musk1": 0.861, "elephant": 0.844, "tiger": 0.789}
BAGS = {"musk1": 92, "elephant": 200, "tiger": 200}
SMALL_TOWER = ("schedule.steps=60", "schedule.warmup_steps=10", "evaluation.controls.resnet18=null")


def real_input(report: Report, folder: Path) -> None:
    """2: the classical benchmarks, bags of digits, and real slides."""
    _benchmarks(report, folder)
    _digits(report, folder)
    _slides(report, folder)


def _benchmarks(report: Report, folder: Path) -> None:
    if not MIL.is_dir():
        report.skip("2", "musk1, elephant, tiger", f"no data at {MIL}")
        return
    report.show("2", "published_table", "Ilse et al. 2018 is not quoted: no copy was at hand to check its figures")
    for name, floor in FLOORS.items():
        done = verb("train", f"experiment={name}", "aggregator=mean,abmil,gated_abmil", folder=folder)
        report.check("2", done.status == 0, f"{name}_exit_status", f"{done.status} in {done.seconds:.0f} s")
        figures = json.loads((latest(folder, "train", experiment=name) / "pooled.json").read_text())
        accuracy = {figure["arm"]: figure for figure in figures if figure["name"] == "bag/leaf_accuracy"}
        report.check("2", set(accuracy) == {"mean", "abmil", "gated_abmil"}, f"{name}_arms", sorted(accuracy))
        for arm, figure in accuracy.items():
            every = (figure["seeds"], figure["folds"], figure["n"]) == (5, 10, BAGS[name])
            report.check("2", every, f"{name}/{arm}_runs_folds_bags", (figure["seeds"], figure["folds"], figure["n"]))
            report.show(
                "2",
                f"{name}/{arm}",
                f"{figure['value']:.3f} +- {figure['standard_error']:.3f} (standard error of five runs)"
                + f"; mean of instances, same folds: {figure['controls']['mean_of_instances']:.3f}",
            )
        value = accuracy["abmil"]["value"]
        report.check("2", value >= floor - 0.02, f"{name}_abmil_above_floor", f"{value:.3f} >= {floor} - 0.02")


def _digits(report: Report, folder: Path) -> None:
    table = digits.write(folder / "digits.csv", {"train": 200, "val": 50, "test": 400})
    for aggregator in ("abmil", "gated_abmil"):
        done = verb("train", *digits.keys(table), f"aggregator={aggregator}", folder=folder)
        report.check("2", done.status == 0, f"digits_{aggregator}_exit_status", done.status)
        figures = summary(latest(folder, "train", experiment="bags"))
        for name in ("bag/macro_auroc", "instance/attention_auroc", "instance/contribution_auroc"):
            _above_controls(report, "2", f"digits_{aggregator}/{name}", figures[name])


def _slides(report: Report, folder: Path) -> None:
    """A tower that has seen nothing but the phantom: what is shown is that the way is there, not that it finds."""
    note = "tower trained on the phantom: plumbing"
    if not SLIDES.is_dir():
        report.skip("2", "real slides", f"no data at {SLIDES}")
        return
    done = verb("train", *SMALL_TOWER, folder=folder)
    report.check("2", done.status == 0, "tower_exit_status", done.status)
    trained, features = f"run={latest(folder, 'train', experiment='default')}", folder / "features"
    done = verb("embed", trained, f"input={SLIDES}", f"out={features}", folder=folder)
    fates = status(latest(folder, "embed"))
    embedded = [name for name, row in fates.items() if row["status"] != "refused"]
    refused = {name: row["reason"] for name, row in fates.items() if row["status"] == "refused"}
    whole = "CMU-1-Small-Region.svs" in embedded and all(refused.values())
    report.check("2", done.status == 3 and whole, "slides_embedded", f"{embedded} ({note})")
    report.show("2", "slides_refused", refused)

    slide = SLIDES / "CMU-1-Small-Region.svs"
    done = verb("predict", trained, f"input={slide}", folder=folder)
    maps = sorted(path.name for path in (latest(folder, "predict") / "maps").glob("*"))
    suffixes = {Path(name).suffix for name in maps}
    report.check("2", done.status == 0 and suffixes >= {".png", ".geojson"}, "slide_mapped", f"{maps} ({note})")

    ask = [trained, f"index={features}", f"input={SLIDES}", "allow_failures=all"]
    done = verb("search", *ask, "query=glands with mucus, beside muscle", folder=folder)
    hits = rows(latest(folder, "search") / "hits.csv") if done.status == 0 else []
    written = hits and (latest(folder, "search") / "hits.html").is_file()
    report.check("2", bool(written), "search_by_text", f"{len(hits)} hits ({note})")
    recall = done.value("search_recall_at_10")
    report.show("2", "search_recall", f"{recall} (so few tiles are searched exactly; point 4 measures codes)")

    one = next((hit for hit in hits if hit["slide"] == slide.name), None)
    if one is None:
        done = verb("search", *ask, "query=glands", "search.per_slide=1", "search.count=50", folder=folder)
        one = next(hit for hit in rows(latest(folder, "search") / "hits.csv") if hit["slide"] == slide.name)
    place = [round(float(one[key])) for key in ("x", "y", "w", "h")]
    example = _cut(slide, place, folder / "example.png")
    done = verb("search", *ask, f"example={example}", "data.resolution=0.499", folder=folder)
    first = rows(latest(folder, "search") / "hits.csv")[0]
    same = first["slide"] == slide.name and [round(float(first[key])) for key in ("x", "y")] == place[:2]
    report.check("2", same, "search_by_example_finds_itself", f"{first['slide']} {first['x']} {first['y']} ({note})")


def _cut(slide: Path, place: Sequence[int], target: Path) -> Path:
    """A picture of a part of a slide, level 0."""
    from openslide import OpenSlide

    x, y, width, height = place
    with OpenSlide(str(slide)) as opened:
        opened.read_region((x, y), 0, (width, height)).convert("RGB").save(target)
    return target


def aggregators(report: Report, folder: Path) -> None:
    """3: the contract of every aggregator, and slow references on the same weights."""
    tests = "tests/core/mil/test_aggregators.py"
    for name, chosen in {
        "pack_equals_one_by_one_blind_to_neighbours_and_order": "keep_the_contract or keeps_the_contract",
        "equal_to_plain_torch_on_the_same_weights": "equals_slow_reference",
        "chunks_change_nothing": "chunks_change",
        "a_broken_aggregator_is_named": "contract_names or contract_passes",
    }.items():
        done = run(["-m", "pytest", "-q", "-rs", tests, "-k", chosen], REPOSITORY)
        report.check("3", done.status == 0, name, done.output.strip().splitlines()[-1])
    if importlib.util.find_spec("torchmil") is None:
        report.show("3", "torchmil", "not importable here; the reference is tests/core/mil/aggregator_reference.py: "
                    "plain torch from the papers, float64, one tile at a time, forward and gradients")  # fmt: skip
    else:
        report.skip("3", "torchmil", "importable, and no comparison with it is written")


def benchmarks(report: Report, folder: Path) -> None:
    """4: the printed figures of the benchmarks."""
    bounds = {
        "mil": {
            "loop_over_packed": (0.9, math.inf),
            "loop_over_packed_small": (1.35, math.inf),
            "padded_over_packed": (3.0, math.inf),
            "rank_imbalance": (0.0, 0.05),
            "peak_gib_100k": (0.0, 4.0),
        },
        "search": {"search_recall_at_10": (0.95, 1.0)},
    }
    for name, figures in bounds.items():
        done = run(["-m", f"tests.benchmarks.{name}"], REPOSITORY)
        report.check("4", done.status == 0, f"{name}_exit_status", done.status)
        for figure, (low, high) in figures.items():
            value = done.value(figure)
            report.check("4", low <= value <= high, figure, value)


def kills(report: Report, folder: Path) -> None:
    """5: kill -9 at random moments of ``embed`` and of a fold."""
    count = int(os.environ.get("ACCEPTANCE_KILLS", "50"))
    shares = {"embed": count // 2, "fold": count - count // 2}
    for name, share in shares.items():
        done = run(["-m", f"tests.soak.{name}", str(share)], REPOSITORY)
        report.check("5", done.status == 0, f"{name}_exit_status", done.status)
        found = {key: int(done.value(key)) for key in ("kills", "rounds", "partial", "different")}
        holds = found["kills"] >= share and found["partial"] == found["different"] == 0
        report.check("5", holds, f"{name}_killed", found)
    report.check("5", sum(shares.values()) >= 50, "kills_in_all", sum(shares.values()))


def bad_input(report: Report, folder: Path) -> None:
    """6: a bag of one tile is valid; every mistake is one clear paragraph, or a refusal named in ``status.csv``."""
    _one_tile(report, folder / "one")
    _refused_slides(report, folder / "many")
    _wrong_unit(report, folder / "unit")
    _refused_runs(report, folder / "split")
    _another_tower(report, folder / "towers")


SHORT = ("experiment=bags", "schedule.steps=20", "schedule.warmup_steps=2", "data.workers=0")


def _one_tile(report: Report, folder: Path) -> None:
    from tests.core.run.bag_cohort import write_cohort

    folder.mkdir()
    table = write_cohort(folder, patients=32, tiles=(1, 2))
    done = _train(table, folder, "aggregator=clam", "aggregator.hidden=16", "aggregator.attention=8", "bags.of=id")
    report.check("6", done.status == 0, "bags_of_one_tile_exit_status", done.status)
    trained = latest(folder, "train")
    tiles = {row["tiles"] for row in status(trained).values()}
    terms = {float(row["instance"]) for row in rows(trained / "metrics.csv")}
    report.check("6", tiles == {"1"} and terms == {0.0}, "clams_instance_term_of_one_tile", f"{terms}, tiles {tiles}")
    predicted = summary(trained)["bag/leaf_accuracy"]["n"]
    report.check("6", predicted > 0, "bags_of_one_tile_predicted", predicted)


def _refused_slides(report: Report, folder: Path) -> None:
    """One bad slide of each kind among good ones: the run goes on, and each is named with its reason."""
    import h5py

    from tests.core.run.bag_cohort import WIDTH, write_cohort, write_slide_features

    folder.mkdir()
    table = write_cohort(folder, patients=32)
    good = np.random.default_rng(1).normal(size=(20, WIDTH)).astype(np.float16)
    empty = np.zeros((0, WIDTH), np.float16)
    expected = {
        "no_tile": ("has no tile: blank glass", write_slide_features(folder, "no_tile", empty, note="blank glass")),
        "nan": ("has NaN or infinite features in 3 of 20 tiles", write_slide_features(folder, "nan", good)),
        "wide": ("features of width 16", write_slide_features(folder, "wide", np.hstack([good, good]))),
        "other": ("encoder another@2", write_slide_features(folder, "other", good, encoder="another@2")),
        "half": ("is damaged", write_slide_features(folder, "half", good)),
        "missing": ("has no features", None),
        "unlabelled": ("unknown label", write_slide_features(folder, "unlabelled", good)),
    }
    with h5py.File(expected["nan"][1], "r+") as file:
        file["features"][4:7, 2] = np.nan
    half = Path(str(expected["half"][1]))
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    with open(table, "a", newline="") as file:
        for number, name in enumerate(expected):
            (folder / f"{name}.svs").write_text(name)
            label = "" if name == "unlabelled" else "normal"
            file.write(f"{name}.svs,{name},bad{number},{('train', 'test')[number % 2]},{label},50,1\n")
    done = _train(table, folder)
    report.check("6", done.status == 3 and "Traceback" not in done.output, "run_goes_on", done.status)
    fates = status(latest(folder, "train"))
    for name, (reason, _) in expected.items():
        fate = fates.get(name, {"status": "not there", "reason": ""})
        holds = fate["status"] == "refused" and reason in fate["reason"]
        report.check("6", holds, f"slide_{name}", f"{fate['status']}: {fate['reason']}")
    others = {name: row["reason"] for name, row in fates.items() if row["status"] != "ok" and name not in expected}
    report.check("6", not others, "good_slides_refused", others)
    failed = {row["path"] for row in rows(latest(folder, "train") / "failures.csv")}
    report.check("6", failed == set(expected), "failures_csv", sorted(failed))


def _wrong_unit(report: Report, folder: Path) -> None:
    """Coordinates in level-0 pixels where the layout has microns, and the other way round."""
    from tests.domains.pathology.twins import MPP, WRITERS, slide

    for layout, change in {"stamp": 1 / MPP, "trident": MPP * 1.01, "clam": MPP * 1.01}.items():
        place = folder / layout
        place.mkdir(parents=True)
        lines = ["path,id,group,split,label,mpp"]
        for number in range(16):
            corners, features = slide(number)
            (place / f"s{number}.svs").write_text(str(number))
            wrong = {"coords": corners * MPP if layout == "stamp" else corners}
            if number == 0:
                wrong["coords"] = wrong["coords"] * change
            given = WRITERS[layout](place / "features", (corners, features), f"s{number}", **wrong)
            split = ("train", "train", "val", "test")[number // 2 % 4]
            lines.append(f"s{number}.svs,s{number},p{number},{split},{number % 2},{MPP}")
        (place / "slides.csv").write_text("\n".join(lines) + "\n")
        done = verb("train", *SHORT, f"manifest={place / 'slides.csv'}", f"bags.features={given}",
                    f"bag_layout={layout}", "aggregator=mean", folder=place)  # fmt: skip
        refused = {name: row["reason"] for name, row in status(latest(place, "train")).items() if row["status"] != "ok"}
        holds = done.status == 3 and set(refused) == {"s0"}
        report.check("6", holds, f"coordinates_in_the_wrong_unit_{layout}", refused)


def _refused_runs(report: Report, folder: Path) -> None:
    from tests.core.run.bag_cohort import write_cohort

    folder.mkdir()
    table = write_cohort(folder, patients=16)
    text = table.read_text()
    cases = {
        "patient_in_two_splits": (text.replace("p1s0.svs,p1s0,p1,train", "p1s0.svs,p1s0,p1,test"), [], ["p1", "split"]),
        "no_label_column": (text.replace("label", "grade", 1), [], ["label", "manifest_options.columns"]),
        "no_label_at_all": (text.replace("tumour", "").replace("normal", ""), [], ["label"]),
        "features_of_no_slide": (text, [f"bags.features={_renamed(folder)}"], ["no slide of the manifest"]),
        "empty_folder_of_features": (text, [f"bags.features={_made(folder / 'nothing')}"], ["nothing", "no feature"]),
        "no_features_named": (text, ["bags.features=null"], ["bags.features"]),
    }
    for name, (content, more, words) in cases.items():
        (folder / f"{name}.csv").write_text(content)
        done = _train(folder / f"{name}.csv", folder, *more)
        clear = done.status == 2 and "Traceback" not in done.output
        missing = [word for word in words if word not in done.output]
        report.check("6", clear and not missing, name, " ".join(done.output.split())[-260:])


def _another_tower(report: Report, folder: Path) -> None:
    """Two towers of different seeds: one embeds, the other asks."""
    folder.mkdir()
    slide = SLIDES / "CMU-1-Small-Region.svs"
    if not slide.is_file():
        report.skip("6", "index of another tower", f"no slide at {slide}")
        return
    small = ("schedule.steps=3", "schedule.warmup_steps=1", "data.phantom.patients=12",
             "evaluation.controls.resnet18=null")  # fmt: skip
    for seed in (0, 1):
        done = verb("train", *small, f"seed={seed}", f"output.id=seed{seed}", folder=folder)
        report.check("6", done.status == 0, f"tower_{seed}_exit_status", done.status)
    runs = folder / "outputs" / "pathology" / "train" / "default"
    done = verb("embed", f"run={runs / 'seed0'}", f"input={slide}", f"out={folder / 'features'}", folder=folder)
    report.check("6", done.status == 0, "embed_exit_status", done.status)
    done = verb("search", f"run={runs / 'seed1'}", f"index={folder / 'features'}", "query=glands", folder=folder)
    told = "the index was made by the tower" in " ".join(done.output.split())
    clear = done.status == 2 and told and "Traceback" not in done.output
    report.check("6", clear, "index_of_another_tower", " ".join(done.output.split())[-260:])


def _train(table: Path, folder: Path, *keys: str) -> Outcome:
    given = (f"manifest={table}", f"bags.features={folder / 'features'}")
    return verb("train", *SHORT, *given, *keys, folder=folder)


def _renamed(folder: Path) -> Path:
    """The same features under names that no slide has."""
    other = _made(folder / "renamed")
    for path in (folder / "features").glob("*.h5"):
        (other / f"case {path.name}").write_bytes(path.read_bytes())
    return other


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _above_controls(report: Report, point: str, name: str, figure: dict[str, Any]) -> None:
    """A figure whose interval lies above chance; its other controls are shown."""
    controls = ", ".join(f"{control} {value:.3f}" for control, value in figure["controls"].items())
    shown = f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}] n={figure['n']}; {controls}"
    report.check(point, figure["low"] > figure["controls"]["chance"], name, shown)


POINTS = {
    "1": whole_slides,
    "2": real_input,
    "3": aggregators,
    "4": benchmarks,
    "5": kills,
    "6": bad_input,
}

if __name__ == "__main__":
    sys.exit(harness.main(POINTS, sys.argv[1:]))
