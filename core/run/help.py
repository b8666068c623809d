"""What ``--help`` prints: static text, so that it is there at once.

A domain adds lines of its own in ``<domain>/help/<verb>.txt``.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Help:
    """What a person wants to know of a verb."""

    does: str
    keys: tuple[tuple[str, str], ...]  # key, what it is
    examples: tuple[tuple[str, str], ...]  # arguments, what they do
    gives: str  # what is in the run folder afterwards


_RUN = ("run=FOLDER", "a trained run; 'latest' is the newest one that ended")
_INPUT = ("input=PATH", "a slide, or a folder of them")
_TABLE = ("manifest=FILE", "a CSV or Parquet table that names slides (path) and their resolution (mpp)")
_RESOLUTION = ("data.resolution=X", "size of a pixel at full resolution, for files that do not say it")
_DRY = ("dry_run=true", "counts what would be done, names what is refused, estimates hours and GB")
_COLUMNS = (
    "manifest_options.columns={path: file, group: patient_id}",
    "what the table's columns are called; also manifest_options.{pattern,root,table,on}",
)

VERBS = {
    "train": Help(
        "Trains an image-text model on pairs of pictures and captions and evaluates it. Without a manifest it makes a\n"
        "small synthetic cohort and trains on that, so it can be tried with no data at all. With experiment=bags it\n"
        "learns from slides as bags of features instead: the keys bags.* and bag_*, aggregator.",
        (
            ("manifest=FILE", "a table of pictures: path, caption or label, group (patient), split ..."),
            _COLUMNS,
            ("knowledge.path=FILE", "an ontology (OBO, OBO-graph JSON, CSV) that groups captions; [A, B] merges two"),
            ("experiment=NAME", "a ready-made set of settings; --info=defaults-tree shows what it is made of"),
            ("objective=NAME", "infonce, siglip, target_softmax, target_sigmoid, group_metric"),
            ("sampler=NAME", "uniform, or group (several pictures of a group in each batch)"),
            ("experiment=bags bags.features=FOLDER", "learns from bags: features that embed wrote, or bag_layout=NAME"),
            ("aggregator=NAME", "mean, max, topk, abmil, gated_abmil, clam, dsmil, transmil, prototypes"),
            ("bag_task=NAME", "classification (column label), regression, or one of the next lines"),
            ("bag_task=ordinal", "with bags.classes=[low, ..., high]"),
            ("bag_task=multilabel", "with bags.findings=[a, b], and columns label.a and label.b"),
            ("bag_task=cox step=cached", "columns time and event; or bag_task=discrete_hazard"),
            ("bag_task=alignment step=plain", "captions; experiment=songci has another way"),
            ("bags.columns=[NAME]", "the column that the task learns, where it has another name"),
            ("bags.of=group", "a bag is all slides of a patient; id: each slide"),
            ("data.split.folds=K data.split.fold=I", "cross-validation; with -m data.split.fold=0,1,...: all folds"),
            ("schedule.steps=N", "optimiser steps; schedule.warmup_steps must be fewer"),
            ("seed=N", "every random choice hangs on it"),
            ("resume=FOLDER", "goes on with an interrupted run, exactly where it was"),
            _DRY,
        ),
        (
            ("", "the synthetic cohort, a few minutes on two cores"),
            ("manifest=pairs.csv knowledge.path=doid.obo.gz objective=group_metric sampler=group", "your own pairs"),
            ("-m objective=infonce,group_metric seed=0,1,2", "six runs; then compare them"),
            ("-m experiment=bags manifest=slides.csv bags.features=features aggregator=mean,clam", "two heads"),
        ),
        "report.html (open it in a browser), summary.json, items.parquet, metrics.csv, figures/, model.safetensors",
    ),
    "evaluate": Help(
        "Evaluates a trained run: zero-shot, retrieval and linear probe, each beside its controls, with 95 %\n"
        "intervals. On the run's own test split; and, where another table is named, on all of that too: zero-shot and\n"
        "probe, over the classes that both share.",
        (
            _RUN,
            (
                "manifest=FILE",
                "another labelled set, never trained on: every row is tested, beside the run's own split",
            ),
            ("classes=FILE", "CSV set,label,shared where that set names its classes otherwise"),
            (
                "manifest_options.columns={path: file}",
                "what that table's columns are called; also manifest_options.root",
            ),
            _RESOLUTION,
        ),
        (
            ("run=latest", "the newest run again"),
            ("run=outputs/pathology/train/default/latest manifest=other_scanner.csv", "does it carry to other data?"),
        ),
        "report.html, summary.json, items.parquet, figures/",
    ),
    "predict": Help(
        "Asks text prompts of every tile of a slide. Gives a probability map as a picture with a scale bar, and areas\n"
        "for the viewer of the domain. A run over bags, or a sweep of them as an ensemble, is applied to the features\n"
        "of new slides: one row a patient, with maps of what each tile brought where the slides are there. Of a run\n"
        "that aligned bags with texts the row has the first five entries of its vocabulary, and maps are of the first.",
        (
            _RUN,
            _INPUT,
            ("prompts=[TEXT, TEXT]", "one text a class; by default those kept with the run"),
            _TABLE,
            _RESOLUTION,
            ("threshold=X", "an area's tiles have at least this probability"),
            ("bags.features=FOLDER", "of a run over bags: the features of the table's slides"),
            _DRY,
        ),
        (
            ("run=latest input=slide.svs", "the run's own classes"),
            ("run=outputs/pathology/train/bags/cv manifest=new.csv bags.features=features", "an ensemble of folds"),
            ("run=latest input=slides/ 'prompts=[normal colon, an adenoma, a lymphoid follicle]'", "your own words"),
        ),
        "maps/, tiles/, predictions.csv, prompts.json, status.csv (fate of every file); of bags sheets/, words.csv",
    ),
    "search": Help(
        "Finds the tiles of a cohort that are nearest to a text or to a picture. Keeps an index beside the features\n"
        "and brings it up to date first: new and changed feature files are added, those that are gone leave it.",
        (
            ("index=FOLDER", "a folder of feature files (from the verb embed), or an index"),
            ("query=TEXT", "what to look for, in words"),
            ("example=FILE", "or a picture of it; its middle is taken at the model's scale"),
            ("run=FOLDER", "the trained run whose tower made the features; 'latest' is the newest one that ended"),
            ("encoder=FILE", "or, for an example, the weights entry (YAML) that made them"),
            ("out=FOLDER", "where the index is kept; by default search_index in the folder of features"),
            ("input=PATH", "the slides, for thumbnails and areas; the index keeps where they are"),
            ("manifest=FILE", "a table that names slides, with columns to filter by; the index keeps them too"),
            ("'search.where={COLUMN: VALUE}'", "only slides that fit; a list [A, B] allows several values"),
            ("search.count=N search.per_slide=N", "tiles wanted; at most so many of a slide"),
            ("search.check=false", "does not compare with exact search, which reads the whole index"),
            ("data.sharing=restricted", "no picture, id or path in the page and the table; slides embedded so: always"),
            _DRY,
        ),
        (
            ("index=features/ run=latest input=slides/ 'query=a lymphoid follicle'", "in words"),
            ("index=features/ run=latest example=tile.png data.resolution=0.5", "a picture without a scale"),
            ("index=features/ run=latest manifest=cohort.csv query=necrosis 'search.where={site: A}'", "of one site"),
        ),
        "hits.html (open it in a browser), hits.csv, hits/ (areas), status.csv (the fate of every feature file)",
    ),
    "embed": Help(
        "Turns every tile of slides into features, with the image tower of a trained run or of a local weights file:\n"
        "one HDF5 file a slide. Slides that are done are skipped, so the same command goes on after an interruption.",
        (
            _RUN,
            ("encoder=FILE", "or a weights entry (YAML) of a local file, such as a plain timm ViT"),
            _INPUT,
            _TABLE,
            _RESOLUTION,
            ("cohort=NAME", "or a synthetic cohort of the domain, to try it (pathology: whole_slides)"),
            ("out=FOLDER", "where the features go; a run adds to what is there"),
            ("shard=I/N", "every N-th slide from the I-th on: 1/4 to 4/4 are four jobs with one out="),
            ("space=pooled", "features of the backbone instead of vectors that texts find"),
            ("data.sharing=restricted", "no name is printed, and search shows nothing of these slides"),
            _DRY,
        ),
        (
            ("run=latest input=slides/ out=features", "a folder of slides; again to go on or to add new ones"),
            ("encoder=uni.yaml manifest=slides.csv out=features shard=1/4", "a quarter of a table, by a plain ViT"),
        ),
        "features/*.h5 (unless out= is set), failed_tiles.csv, status.csv (the fate of every file)",
    ),
    "tile": Help(
        "Finds the content of slides, lays a grid of tiles of known physical size over it and reads each tile\n"
        "once. Says of every file of a folder whether it can be used and, if not, why.",
        (
            _INPUT,
            _TABLE,
            ("tile.size_px=N", "side of a tile in pixels"),
            ("tile.resolution=X", "size of a tile's pixel (for slides in microns)"),
            ("tile.min_coverage=X", "share of a tile that must be content"),
            _RESOLUTION,
            _DRY,
        ),
        (
            ("input=slides/", "a whole folder"),
            ("input=slide.tif data.resolution=0.25 tile.resolution=1.0", "a slide that does not say its resolution"),
        ),
        "tiles/*.csv, thumbnails/*.png, status.csv (the fate of every file), failures.csv",
    ),
    "knowledge": Help(
        "Builds a knowledge graph from an ontology or taxonomy, counts what is in it, and checks it: cycles, dangling\n"
        "parents, duplicate names, obsolete terms.",
        (
            ("knowledge.path=FILE", "OBO, OBO-graph JSON or CSV, also gzipped; [A, B] merges several"),
            ("knowledge.prefix=CL", "keeps the terms of one ontology, without those it imports"),
            ("knowledge.aliases=FILE", "CSV text,concept that overrides how captions are linked"),
            ("query=TEXT", "an id or a name to look at, or a text in which concepts are marked"),
            ("manifest=FILE", "links the captions of a table and shows how many of them have a concept"),
        ),
        (
            ("knowledge.path=doid.obo.gz", "counts and findings"),
            ("knowledge.path=[cl.obo, uberon.obo] manifest=pairs.csv", "do my captions link to them?"),
        ),
        "findings.csv and status.csv",
    ),
    "manifest": Help(
        "Makes a manifest (the table every other verb reads) out of a folder of pictures, or checks one. Lists what\n"
        "does not match and looks for leaks between splits, duplicates and rare classes.",
        (
            ("input=FOLDER", "a folder to scan"),
            ("manifest=FILE", "or a table to check"),
            ("manifest_options.pattern=REGEX", "reads fields out of names: (?P<group>P[0-9]+)_(?P<label>[a-z]+)"),
            ("manifest_options.table=FILE manifest_options.on=COLUMN", "joins a clinical table"),
            _COLUMNS,
            _RESOLUTION,
        ),
        (
            ("input=pictures/ 'manifest_options.pattern=(?P<group>P[0-9]+)_(?P<label>[a-z]+)'", "from names"),
            ("manifest=pairs.csv", "audits a table"),
        ),
        "manifest.csv, unmatched.csv, audit.json, status.csv",
    ),
    "compare": Help(
        "Compares trained runs, paired by seed and by item, factor by factor, with 95 % intervals. Nothing is called\n"
        "better unless the interval excludes zero.",
        (
            ("runs=FOLDER", "the folder of a sweep; [A, B] names several runs or folders of runs"),
            ("compare.baseline=NAME", "the arm the others are compared with; by default that of the first run"),
        ),
        (
            ("runs=outputs/pathology/train/claim/latest", "a sweep"),
            ("'runs=[outputs/a, outputs/b]' compare.baseline=objective=infonce", "two sets of runs"),
        ),
        "compare.csv, compare.html, compare.tex",
    ),
}

_COMMON = """Other keys
  output.root=FOLDER output.id=NAME   where the run folder is: <root>/<domain>/<verb>/<experiment>/<id>
  allow_failures=N                    so many inputs may be refused without exit status 3; or all
  debug=true                          shows the traceback of an error

Paths and texts are taken as they stand: commas, spaces and brackets need no escape (only quotes for your shell).
See the whole config, or that of a choice:  {command} --cfg job [key=value ...]
Your own configs:  --config-dir FOLDER, in subfolders as in the suite (objective/mine.yaml is objective=mine)
Exit status: 0 done; 2 a mistake, explained in one paragraph; 3 done, but inputs were refused (status.csv says why)."""


def help_text(package: str, verb: str) -> str:
    """Help of one verb of one domain.

    Args:
        package: import name of the domain's package.
        verb: a key of ``VERBS``.
    """
    page = VERBS[verb]
    own = package.removeprefix("domains.")
    command = f"python -m {package}.{verb}" if package.startswith("domains.") else f"trivium {package} {verb}"
    lines = [page.does, "", f"  {command} [key=value ...]", "", "Keys"]
    width = 36
    for key, text in page.keys:
        lines += [f"  {key:<{width}}{text}"] if len(key) < width else [f"  {key}", f"  {'':<{width}}{text}"]
    lines += ["", "Examples"]
    for arguments, text in page.examples:
        shown = arguments.replace("outputs/pathology", f"outputs/{own}")
        lines += [f"  # {text}", f"  {command} {shown}".rstrip()]
    lines += ["", f"The run folder then holds {page.gives}.", ""]
    added = _of_domain(package, verb)
    if added:
        lines += [added, ""]
    return "\n".join([*lines, _COMMON.replace("{command}", command)])


def overview() -> str:
    """What ``trivium`` prints without a domain and a verb."""
    lines = [
        "Vision-language specialists aligned by a knowledge graph.",
        "",
        "  trivium <domain> <verb> [key=value ...]",
    ]
    lines += ["", "Verbs"]
    lines += [f"  {name:<11}{_first_sentence(page.does)}" for name, page in VERBS.items()]
    return "\n".join([*lines, "", "  trivium pathology train --help     says more of a verb"])


def _first_sentence(text: str) -> str:
    return text.replace("\n", " ").split(". ")[0].split(": ")[0].rstrip(".") + "."


def _of_domain(package: str, verb: str) -> str:
    """A domain's own lines."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    texts = [Path(folder) / "help" / f"{verb}.txt" for folder in folders]
    return "\n".join(path.read_text(encoding="utf-8").rstrip() for path in texts if path.is_file())
