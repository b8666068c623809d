"""The first road, as a user would try it: ``python -m tests.acceptance.core [POINT ...]``."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.acceptance import harness
from tests.acceptance.harness import DATA, REPOSITORY, Report, latest, rows, run, status, summary, verb
from tests.core.raster.pictures import noise, write_slide

GRAPHS = DATA / "knowledge_graph"
PATHOLOGY = DATA / "pathology"
COUNTS = ("live_terms", "synonyms", "definitions", "is_a_edges", "multi_parent", "roots")


def main_job(report: Report, folder: Path) -> None:
    """1: the main job with no arguments."""
    imports = run(
        ["-c", "import core.run.train, lightning, open_clip, timm, time; time.sleep(2)"], folder, watch_memory=True
    )
    done = verb("train", folder=folder, watch_memory=True)
    report.check("1", done.status == 0, "exit_status", done.status)
    report.check("1", done.seconds <= 600, "seconds", round(done.seconds))
    report.check(
        "1", done.peak_gib - imports.peak_gib <= 4, "peak_gib_over_imports", round(done.peak_gib - imports.peak_gib, 2)
    )
    folder_of_run = latest(folder, "train")
    leaf = summary(folder_of_run)["zero_shot/leaf_accuracy"]
    for control in ("chance", "majority"):
        bound = leaf["controls"][control]
        report.check("1", leaf["low"] > bound, f"leaf_accuracy_low_above_{control}", f"{leaf['low']:.3f} > {bound:.3f}")
    report.check("1", "resnet18" in leaf["controls"], "resnet18_shown", leaf["controls"].get("resnet18"))
    report.check("1", (folder_of_run / "report.html").stat().st_size > 10_000, "report_html", "written")


def real_input(report: Report, folder: Path) -> None:
    """2: real pictures, a real slide, and a folder of good and broken slides."""
    if not PATHOLOGY.is_dir():
        report.skip("2", "real input", f"no data at {PATHOLOGY}")
        return
    for experiment in ("blood_cells", "colorectal_textures", "micrographs"):
        done = verb("train", f"experiment={experiment}", folder=folder)
        report.check("2", done.status == 0, f"{experiment}_exit_status", done.status)
        sweep = latest(folder, "train", experiment=experiment)
        figures = summary(sweep)
        for name, figure in figures.items():
            interval = f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}] n={figure['n']}"
            below = f" BELOW FLOOR {figure['below_floor']}" if figure["below_floor"] else ""
            report.check("2", not math.isnan(figure["value"]), f"{experiment}/{name}", f"{interval}{below}")
        evaluations = {name.partition("/")[0] for name in figures}
        wanted = {"zero_shot", "probe", "retrieval", "resnet18", "floor_colour6"}
        wanted |= {"external_zero_shot", "external_probe"} if experiment == "colorectal_textures" else set()
        report.check("2", wanted <= evaluations, f"{experiment}_evaluations", sorted(evaluations))
        printed = re.search(r"linked: \d+ of \d+ rows.*", done.output)
        report.check("2", printed is not None, f"{experiment}_linking", printed and printed.group(0))
    slide = PATHOLOGY / "slides" / "CMU-1-Small-Region.svs"
    one = next(path.parent for path in latest(folder, "train", experiment="micrographs").rglob("model.safetensors"))
    done = verb("predict", f"run={one}", f"input={slide}", folder=folder)
    report.check("2", done.status == 3 and "unknown scale" in done.output, "micrographs_refuse_a_slide", done.status)
    colorectal = latest(folder, "train", experiment="colorectal_textures")
    one = next(path.parent for path in sorted(colorectal.rglob("model.safetensors")))
    done = verb("predict", f"run={one}", f"input={slide}", folder=folder)
    report.check("2", done.status == 0, "predict_exit_status", done.status)
    maps = latest(folder, "predict") / "maps"
    report.check(
        "2", any(maps.glob("*.png")) and any(maps.glob("*.geojson")), "predict_maps", len(list(maps.iterdir()))
    )
    done = verb("tile", f"input={PATHOLOGY / 'slides'}", folder=folder)
    report.check("2", done.status == 3, "tile_exit_status", done.status)
    fates = status(latest(folder, "tile"))
    for expected in rows(REPOSITORY / "tests/domains/pathology/expected_fates.csv"):
        fate = fates.pop(expected["path"], None)
        found = {name: (fate or {}).get(name, "") for name in expected if name != "why"}
        holds = found["status"] == expected["status"] and expected["reason"].lower() in found["reason"].lower()
        for name in ("tiles", "failed_tiles"):
            wanted = expected[name]
            holds &= int(found[name] or 0) > 0 if wanted == ">0" else not wanted or found[name] == wanted
        report.check("2", holds, f"fate_of_{expected['path']}", found)
    report.check("2", not fates, "files_without_expected_fate", sorted(fates))


def knowledge_counts(report: Report, folder: Path) -> None:
    """3: the counts of every graph, exactly."""
    if not GRAPHS.is_dir():
        report.skip("3", "knowledge counts", f"no data at {GRAPHS}")
        return
    facts = json.loads((GRAPHS / "facts.json").read_text())
    names = [name + "_terms" * (name == "multi_parent") for name in COUNTS]
    for file, fact in facts.items():
        for row in ("all", "own"):
            if row not in fact or (row == "own" and fact[row]["live_terms"] == fact["all"]["live_terms"]):
                continue
            keys = [f"knowledge.path={GRAPHS / file}"]
            if row == "own":
                keys.append(f"knowledge.prefix={fact['own']['prefix']}")
            done = verb("knowledge", *keys, folder=folder)
            found = [int(done.value(name)) for name in names] if done.status == 0 else done.output[-300:]
            wanted = [fact[row][name] for name in COUNTS]
            report.check("3", found == wanted, f"{file}_{row}", found)
    slim = facts["cl-general-slim-2026-06-08.obo.gz"]
    json_file = "cl-general-slim-2026-06-08.json.gz"
    for row, keys in (("all", []), ("own", [f"knowledge.prefix={slim['own']['prefix']}"])):
        done = verb("knowledge", f"knowledge.path={GRAPHS / json_file}", *keys, folder=folder)
        found = [int(done.value(name)) for name in names]
        report.check("3", found == [slim[row][name] for name in COUNTS], f"{json_file}_{row}", found)


def claim(report: Report, folder: Path) -> None:
    """4: the six arms on both phantoms over five seeds, then ``compare``."""
    done = verb("train", "-m", "experiment=claim", folder=folder)
    report.check("4", done.status == 0, "train_exit_status", done.status)
    sweep = latest(folder, "train", experiment="claim")
    runs = sorted(sweep.rglob("summary.json"))
    report.check("4", len(runs) >= 60, "runs", len(runs))
    spent: dict[bool, list[float]] = {True: [], False: []}  # did the run find its cohort and its control made?
    for path in runs:
        ready = json.loads(path.read_text())["details"]["resnet18"]["from_cache"]
        spent[ready].append(json.loads((path.parent / "status.json").read_text())["seconds"])
    seconds = sorted(spent[True])
    report.check("4", seconds[-1] <= 60, "longest_run_s", f"{seconds[-1]} (median {seconds[len(seconds) // 2]})")
    report.show("4", "first_run_of_a_cohort_s", f"{spent[False]} (draws the cohort, trains ResNet-18)")
    done = verb("compare", f"runs={sweep}", folder=folder)
    report.check("4", done.status == 0, "compare_exit_status", done.status)
    compared = latest(folder, "compare")
    for suffix in ("csv", "html", "tex"):
        report.check("4", (compared / f"compare.{suffix}").is_file(), f"compare_{suffix}", "written")
    print(done.output)


def objectives(report: Report, folder: Path) -> None:
    """5: objectives, steps, ranks and resume against references (the tests hold the slow references)."""
    for name, paths in {
        "objectives": ["tests/core/objectives"],
        "steps_and_ranks": ["tests/core/training/test_step.py"],
        "kill_and_resume": ["tests/core/training/test_exactness.py", "tests/core/run/test_resume.py"],
    }.items():
        done = run(["-m", "pytest", "-q", "-rs", *paths], REPOSITORY)
        report.check("5", done.status == 0, name, done.output.strip().splitlines()[-1])


def benchmarks(report: Report, folder: Path) -> None:
    """6: the printed figures of the benchmarks."""
    bounds = {
        "reading": {"dataset_over_reader": (0.9, math.inf), "reader_over_openslide": (0.85, math.inf)},
        "knowledge": {"cached_load_s": (0, 0.1), "relation_ms": (0, 100)},
        "startup": {"help_s": (0, 1.0), "wrong_key_s": (0, 2.5), "missing_file_s": (0, 2.5)},
    }
    for name, figures in bounds.items():
        done = run(["-m", f"tests.benchmarks.{name}"], REPOSITORY)
        report.check("6", done.status == 0, f"{name}_exit_status", done.status)
        for figure, (low, high) in figures.items():
            value = done.value(figure)
            report.check("6", low <= value <= high, figure, value)
        if name == "reading":
            ours, bare = done.value("workers2_over_1"), done.value("bare2_over_1")
            report.check("6", ours >= 0.8 * bare, "workers2_over_1", f"{ours} (two bare processes: {bare})")


def bad_input(report: Report, folder: Path) -> None:
    """7: every mistake is one clear paragraph or a named refusal, and nothing is half-written."""
    (folder / "one.csv").write_text("path,caption\nmissing.png,a cell\n")
    (folder / "empty.csv").write_text("path,caption,label,group\n")
    (folder / "columns.csv").write_text("file,caption\na.png,a cell\n")
    (folder / "caption.csv").write_text("path,caption,label,group\na.png,,x,1\nb.png,a cell,y,2\n")
    (folder / "cycle.obo").write_text(
        "format-version: 1.2\n\n[Term]\nid: A:1\nname: one\nis_a: A:2\n\n[Term]\nid: A:2\nname: two\nis_a: A:1\n"
    )
    (folder / "file").write_text("a regular file")
    small = ["schedule.steps=2", "schedule.warmup_steps=1"]
    cases: dict[str, tuple[list[str], list[str]]] = {
        "missing_folder": (["tile", f"input={folder}/nowhere"], ["nowhere"]),
        "empty_manifest": (["train", f"manifest={folder}/empty.csv", *small], ["empty.csv", "no rows"]),
        "missing_column": (["train", f"manifest={folder}/columns.csv", *small], ["path", "manifest_options.columns"]),
        "pair_without_caption": (["train", f"manifest={folder}/caption.csv", *small], ["caption", "row"]),
        "missing_image": (["train", f"manifest={folder}/one.csv", *small], ["missing.png"]),
        "cyclic_ontology": (["knowledge", f"knowledge.path={folder}/cycle.obo"], ["cycle", "one", "two"]),
        "unwritable_folder": (["train", f"output.root={folder}/file/below", *small], ["file"]),
        "target_outside_allowlist": (
            ["train", "objective._target_=os.system", *small],
            ["os.system", "trivium.allow"],
        ),
        "target_through_alias": (["train", "objective._target_=core.files.os.system", *small], ["trivium.allow"]),
        "unknown_key": (["train", "schedule.stepps=3"], ["stepps", "steps"]),
    }
    for name, ((which, *keys), words) in cases.items():
        done = verb(which, *keys, folder=folder)
        clear = done.status == 2 and "Traceback" not in done.output
        missing = [word for word in words if word not in done.output]
        report.check("7", clear and not missing, name, " ".join(done.output.split())[-220:])
    _corrupt_tile(report, folder)
    _full_disk(report, folder, small)
    _odd_path(report, folder)
    _shadowing(report, folder)


def _corrupt_tile(report: Report, folder: Path) -> None:
    if not PATHOLOGY.is_dir():
        report.skip("7", "corrupt_tile", f"no data at {PATHOLOGY}")
        return
    for file, wanted in (("derived/crop-bad-tile.svs", "partial"), ("unreadable.svs", "refused")):
        done = verb("tile", f"input={PATHOLOGY / 'slides' / file}", folder=folder)
        row = rows(latest(folder, "tile") / "status.csv")[0]
        report.check("7", done.status == 3 and row["status"] == wanted, file, (row["status"], row["reason"]))


def _full_disk(report: Report, folder: Path, small: list[str]) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    root = folder / "full"
    verb("train", "dry_run=true", folder=folder)  # the cohort is drawn without the limit
    done = verb("train", f"output.root={root}", *small, folder=folder, preexec=limit)
    halves = [path for path in root.rglob("*") if path.name.startswith(".writing-") or path.suffix == ".ckpt"]
    clear = done.status == 2 and "Traceback" not in done.output
    report.check("7", clear and not halves, "full_disk", " ".join(done.output.split())[-220:])


def _odd_path(report: Report, folder: Path) -> None:
    """Commas, parentheses, umlauts and what else a grammar of keys might stumble over, in folders and in files."""
    odd = folder / "Größe, (a=b) {x} 'y' ~ [z]"
    odd.mkdir()
    out = f"output.root={odd / 'Läufe, (alle)'}"
    (odd / "Zellen, (klein).obo").write_text("format-version: 1.2\n\n[Term]\nid: A:1\nname: one\n")
    done = verb("knowledge", f"knowledge.path={odd / 'Zellen, (klein).obo'}", out, folder=folder)
    report.check("7", done.status == 0 and done.value("live_terms") == 1, "odd_path_knowledge", done.status)

    slide = write_slide(odd / "Präparat, (1) 'ä'.tiff", [noise(1024, 1024)], mpp=0.5)
    done = verb("tile", f"input={slide}", out, folder=folder)
    report.check("7", done.status == 0 and done.value("tiles") > 0, "odd_path_tile", done.status)

    table = odd / "Tabelle, {ü}.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["path", "mpp", "group", "label", "caption"])
        for number in range(24):
            name, label = f"Bild (ö), {number}=x.png", ("pale", "dark")[number % 2]
            Image.fromarray(noise(128, 128, number)).save(odd / name)
            lines.writerow([name, 0.5, f"p{number // 2}", label, f"a {label} field, seen {number} times"])
    small = ["schedule.steps=2", "schedule.warmup_steps=1", "data.batch_size=8", "evaluation.controls.resnet18=null"]
    done = verb("train", f"manifest={table}", out, *small, folder=folder)
    written = [path.name for path in odd.rglob("report.html")]
    report.check("7", done.status == 0 and len(written) == 1, "odd_path_train", done.status)


def _shadowing(report: Report, folder: Path) -> None:
    shadow = folder / "shadow"
    (shadow / "core").mkdir(parents=True)
    (shadow / "core" / "__init__.py").write_text("")
    done = verb("knowledge", "--help", folder=shadow)
    report.check(
        "7", done.status == 2 and str(shadow) in done.output, "shadowing_core_folder", done.output.strip()[-200:]
    )


def outside(report: Report, folder: Path) -> None:
    """8: notebooks, and an objective and a domain outside of the package with the installed wheel."""
    done = run(["-m", "pytest", "-q", "-rs", "tests/test_notebooks.py"], REPOSITORY)
    report.check("8", done.status == 0, "notebooks", done.output.strip().splitlines()[-1])
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)],
        capture_output=True,
        text=True,
    )
    report.check("8", built.returncode == 0, "wheel", [path.name for path in folder.glob("*.whl")])
    installed, work = folder / "installed", folder / "work"
    work.mkdir()
    wheel = next(folder.glob("*.whl"))
    shutil.unpack_archive(wheel, installed, "zip")  # a pure wheel is its own installation
    shutil.copytree(REPOSITORY / "tests" / "outside", work, dirs_exist_ok=True)
    environment = {"PYTHONPATH": os.pathsep.join([str(installed), str(work)])}
    small = ["schedule.steps=60", "schedule.warmup_steps=10", "trivium.allow=[mylab]"]
    done = run(
        ["-m", "domains.pathology.train", "objective._target_=mylab.margin.Margin", "~objective.policy", *small],
        work,
        environment,
    )
    report.check("8", done.status == 0, "objective_outside", done.status)
    trivium = "from core.run.cli import main; import sys; sys.exit(main(sys.argv[1:]))"
    for which, keys in (("train", ["schedule.steps=60"]), ("evaluate", ["run=latest"])):
        done = run(["-c", trivium, "toy.microscopy", which, *keys], work, environment)
        report.check("8", done.status == 0, f"toy_domain_{which}", done.status)
    lines = sum(
        len(path.read_text().splitlines()) for path in (work / "toy").rglob("*") if path.suffix in {".py", ".yaml"}
    )
    report.check("8", lines <= 150, "toy_domain_lines", lines)


if __name__ == "__main__":
    points = {
        "1": main_job,
        "2": real_input,
        "3": knowledge_counts,
        "4": claim,
        "5": objectives,
        "6": benchmarks,
        "7": bad_input,
        "8": outside,
    }
    sys.exit(harness.main(points, sys.argv[1:]))
