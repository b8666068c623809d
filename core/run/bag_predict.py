"""``predict`` with runs over bags: a frozen run or ensemble applied to new slides, with what each tile brought."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
from omegaconf import DictConfig

from core.data.manifest import Manifest
from core.files import WriteError
from core.mil.bags import Bag
from core.mil.cohort import joined, rows_by_name
from core.mil.tasks.task import Explained
from core.raster.reader import Reader
from core.raster.regions import AreaWriter
from core.run.bag_maps import Placed, place, write_pictures
from core.run.bag_model import BagModel, load_bags
from core.run.bag_tables import Tables
from core.run.bag_texts import read_context
from core.run.bags import Slides, slides_of
from core.run.instantiate import instantiate
from core.run.literals import escape
from core.run.predict import OVERVIEW_PX
from core.run.slides import print_fates, progress_bar, reason
from core.run.status import exit_status
from core.run.tables import manifest_options, read_manifest
from core.types import Fate, UserError

SAMPLE = 3  # patients predicted in a dry run, to time it


@dataclass(frozen=True)
class Patient:
    """The slides of one group of the manifest."""

    name: str
    rows: list[int]  # of the slides that can be used
    bags: list[Bag]  # theirs
    reasons: dict[int, str]  # why the others cannot

    @property
    def tiles(self) -> int:
        return sum(map(len, self.bags))

    def refused(self, why: str) -> Patient:
        """The same patient without any slide of use."""
        return Patient(self.name, [], [], {**self.reasons, **dict.fromkeys(self.rows, why)})


@dataclass(frozen=True)
class Said:
    """What the model says of one patient; nothing where no slide of it can be used."""

    line: dict[str, object] | None = None  # of predictions.csv
    words: list[dict[str, object]] = field(default_factory=list)  # lines of words.csv
    no_map: dict[int, str] = field(default_factory=dict)  # why a slide has no pictures, by row; empty where it has


def run(cfg: DictConfig, folder: Path) -> int:
    """Applies a run over bags, or all runs of a sweep as one ensemble, to the slides of a manifest without labels.

    Args:
        cfg: ``run`` (a run or a sweep), ``manifest``, ``manifest_options``, ``bags.{features, layout}``, ``reader``,
            ``areas``, ``allow_failures``, ``dry_run``, ``debug``.
        folder: of the run; receives ``predictions.csv`` (one row a patient: the mean of its slides where the run
            learned from slides), ``status.csv`` (one a slide), and of every slide whose file can be opened
            ``maps/<slide>.{png,geojson}``, ``sheets/<slide>.png`` and ``tiles/<slide>.parquet``. A slide without a
            readable file is predicted all the same: it is counted. Of a vocabulary the first entries are in the row,
            and pictures are of the patient's first. Where texts are read together with bags, ``words.csv`` has what
            each word added to its score. The tables are written again every minute, of the patients so far.

    Returns:
        0, or 3 when a slide was refused.

    Raises:
        UserError: wrong keys, runs that are no ensemble, a manifest or features that are not there, or an output that
            cannot be written. Whatever else is wrong with a patient is the fate of its slides (``debug`` raises what
            no one foresaw).
    """
    _check(cfg)
    model = load_bags(cfg.run)
    manifest = read_manifest(Path(cfg.manifest), manifest_options(cfg), pictures=False)
    manifest = manifest.with_frame(manifest.frame[manifest.frame["path"].notna()])
    slides = slides_of(_of_new_slides(model, cfg), manifest)
    contexts = _contexts(model, manifest)
    reader, writer = instantiate(cfg.reader), instantiate(cfg.areas)
    pictures = None if cfg.dry_run else Pictures(reader, writer, manifest, folder, len(model.members), cfg.debug)
    ids, groups = (manifest.frame[name].astype(str).tolist() for name in ("id", "group"))
    tables = Tables(folder, model.context is not None)
    seconds, asked, tiles = 0.0, 0, 0
    began = time.perf_counter()
    with progress_bar() as bar:
        task = bar.add_task("patients", total=len(set(groups)))
        for patient in _patients(model, slides, ids, groups, cfg.debug):
            start = time.perf_counter()
            tiles += patient.tiles
            said = Said()
            if not (cfg.dry_run and len(tables.lines) == SAMPLE):
                try:
                    said = _said(model, patient, contexts, pictures)
                except WriteError:
                    raise
                except Exception as error:  # tiles of two scales, too many, or what no one foresaw: others go on
                    _raise_defect(error, cfg.debug)
                    patient = patient.refused(reason(error))
                seconds, asked = seconds + time.perf_counter() - start, asked + patient.tiles
            tables.add(_fates(patient, ids, said.no_map), said.line, said.words)
            if not cfg.dry_run:
                tables.write_when_due()
            bar.advance(task)
    fates = tables.fates
    print_fates(fates, ())
    if cfg.dry_run:
        reading = time.perf_counter() - began - seconds
        print(f"hours: {(reading + seconds * tiles / max(asked, 1)) / 3600:.3g}")
        print(f"gb: {(tiles * (6 + len(model.score_names())) * 8 + 6 * OVERVIEW_PX**2 * len(fates)) / 1e9:.3g}")
    else:
        tables.write()
        _tell(model, len(set(groups)), len(tables.lines), fates)
    return exit_status(fates, cfg.allow_failures)


@dataclass(frozen=True)
class Pictures:
    """Writes what the tiles of a patient's slides brought, where the slides are there."""

    reader: Reader
    writer: AreaWriter
    manifest: Manifest
    folder: Path
    runs: int
    debug: bool

    def write(self, patient: Patient, parts: Sequence[Explained], names: tuple[str, ...]) -> dict[int, str]:
        """The pictures of every slide; why there are none, by row (empty where there are).

        Args:
            patient: whose slides they are.
            parts: of each bag that was made of the slides, in their order.
            names: of what is explained.

        Raises:
            WriteError: a file cannot be written.
        """
        ends = np.cumsum([len(bag) for bag in patient.bags])[:-1]
        weights = np.split(np.concatenate([part.weights for part in parts]), ends)
        contributions = np.split(np.concatenate([part.contributions for part in parts]), ends)
        told = {}
        for row, bag, mine, shares in zip(patient.rows, patient.bags, weights, contributions, strict=True):
            told[row] = self._slide(row, bag, Explained(mine, shares), names)
        return told

    def _slide(self, row: int, bag: Bag, explained: Explained, names: tuple[str, ...]) -> str:
        path, resolution = self.manifest.file(row), self.manifest.frame["resolution"].iloc[row]
        name = safe_name(bag.id)
        if not path.is_file():
            return "the slide is not there"
        try:
            with self.reader.open(path, None if np.isnan(resolution) else float(resolution)) as raster:
                placed = Placed(place(bag, raster), explained, names)
                title = bag.id if self.runs == 1 else f"{bag.id}, {self.runs} runs"
                write_pictures(self.folder, name, raster, placed, self.writer, title)
        except WriteError:  # a full disk would be met by every slide that follows
            raise
        except Exception as error:  # a prediction without a picture is still a prediction
            _raise_defect(error, self.debug)
            return reason(error)
        return ""


def safe_name(id: str) -> str:
    """The id of a slide as the name of a file below a folder; parts of its path stay folders."""
    parts = [part for part in PurePosixPath(id.replace("\\", "/")).parts if part not in ("/", "..")]
    return "/".join(part.replace(":", "_") for part in parts)


def _check(cfg: DictConfig) -> None:
    for key in ("input", "prompts"):
        if cfg[key]:
            raise UserError(f"{key} is for runs on pictures; this one learned from bags", key,
                            "give manifest= and bags.features=")  # fmt: skip
    if not cfg.manifest:
        raise UserError("there is no table of slides", "manifest", "give manifest=<CSV with path and group>")
    if not cfg.bags.features:
        raise UserError("there are no features", "bags.features", "give bags.features=<folder>, as embed writes them")


def _of_new_slides(model: BagModel, cfg: DictConfig) -> DictConfig:
    """The config of the run with the features of the new slides."""
    config: DictConfig = model.config.copy()
    config.bags.features = escape(str(cfg.bags.features))
    if cfg.bags.layout:
        config.bags.layout = cfg.bags.layout
    return config


def _contexts(model: BagModel, manifest: Manifest) -> dict[str, str]:
    """What is read together with each bag, by its name; nothing where bags are seen alone.

    Raises:
        UserError: the manifest lacks the column.
    """
    if model.context is None:
        return {}
    if model.context not in manifest.frame:
        raise UserError(
            f"the run reads the column '{model.context}' together with a slide, and the table has none",
            str(manifest.path),
            "add it, empty where nothing is written, or name it by manifest_options.columns",
        )
    of = model.config.bags.of
    names = rows_by_name(manifest.frame[of].astype(str))
    return dict(zip(names, read_context(manifest, model.context, of), strict=True))


def _patients(
    model: BagModel, slides: Slides, ids: Sequence[str], groups: Sequence[str], debug: bool
) -> Iterator[Patient]:
    """The slides of each group, read one patient at a time."""
    for name, rows in rows_by_name(groups).items():
        good: list[int] = []
        bags: list[Bag] = []
        reasons: dict[int, str] = {}
        for row in rows:
            try:
                bag = slides(ids[row])
                model.require(bag)
            except OSError as error:
                reasons[row] = str(error)
            except Exception as error:  # h5py raises several kinds where a file is damaged
                _raise_defect(error, debug)
                reasons[row] = reason(error)
            else:
                good.append(row)
                bags.append(replace(bag, id=ids[row]))
        yield Patient(name, good, bags, reasons)


def _said(model: BagModel, patient: Patient, contexts: Mapping[str, str], pictures: Pictures | None) -> Said:
    """Predicts and explains a patient, and draws what its slides' tiles brought.

    Args:
        contexts: what is read together with each bag, by its name.
        pictures: None: of a dry run, which explains nothing.

    Raises:
        UserError: tiles of two scales, more of them than the aggregator can take, or (WriteError) no place to write.
    """
    whole = _bags_of(model, patient)
    if not whole:
        return Said()
    given = [(bag, contexts.get(bag.id, "")) for bag in whole]
    mean = np.mean([model.outcome(*each) for each in given], axis=0)
    line = {"group": patient.name, **_counts(patient), **model.row(mean, whole=True)}
    if pictures is None:
        return Said(line)
    entry = model.best(mean)
    parts = [model.explain(*each, entry) for each in given]
    words = _words(model, patient.name, given, parts)
    return Said(line, words, pictures.write(patient, parts, model.score_names(entry)))


def _fates(patient: Patient, ids: Sequence[str], no_map: Mapping[int, str]) -> dict[int, Fate]:
    """Of a patient's slides, by row."""
    fates = {row: Fate(ids[row], "refused", why, {"tiles": 0}) for row, why in patient.reasons.items()}
    for row, bag in zip(patient.rows, patient.bags, strict=True):
        fates[row] = Fate(ids[row], "ok", "", {"tiles": len(bag), "no_map": no_map.get(row, "")})
    return fates


def _raise_defect(error: Exception, debug: bool) -> None:
    """Raises what no one foresaw, where ``debug`` asks for it."""
    if debug and not isinstance(error, UserError):
        raise error


def _bags_of(model: BagModel, patient: Patient) -> list[Bag]:
    """What the model takes of a patient: one bag of all slides, or each slide where it learned from slides.

    Raises:
        UserError: the slides were cut at different scales.
    """
    if not patient.bags or model.config.bags.of != "group":
        return patient.bags
    return [joined(patient.name, patient.bags)]


def _words(
    model: BagModel, patient: str, given: Sequence[tuple[Bag, str]], parts: Sequence[Explained]
) -> list[dict[str, object]]:
    """What each word that was read together with the bags of a patient brought."""
    return [
        {"group": patient, "bag": bag.id, "place": place, "word": word, "contribution": value}
        for (bag, text), part in zip(given, parts, strict=True)
        for place, (word, value) in enumerate(model.words(text, part), 1)
    ]


def _counts(patient: Patient) -> dict[str, object]:
    return {
        "slides": len(patient.rows),
        "refused_slides": len(patient.reasons),
        "tiles": patient.tiles,
    }


def _tell(model: BagModel, patients: int, predicted: int, fates: Sequence[Fate]) -> None:
    """What a person should know, as ``name: value`` lines."""
    found = model.decision(whole=True)
    print(f"runs: {len(model.members)}")
    print(f"patients: {patients} ({predicted} predicted)")
    good = [fate for fate in fates if fate.status == "ok"]
    without = [fate for fate in good if fate.counts["no_map"]]
    print(f"maps: {len(good) - len(without)} of {len(good)} slides")
    for why in dict.fromkeys(str(fate.counts["no_map"]) for fate in without):
        print(f"no map: {sum(fate.counts['no_map'] == why for fate in without)} slides: {why}")
    if len(model.facts.classes) == 2:
        print(f"threshold: {_threshold(found.threshold)}")
    for finding, threshold in found.thresholds.items():
        print(f"threshold.{finding}: {_threshold(threshold)}")
    if found.cut is not None:
        print(f"cut: {found.cut:.6g}")
    if model.ranks:
        print(f"vocabulary: {len(model.facts.vocabulary)} entries")


def _threshold(value: float | None) -> str:
    none = "none, since a run had validation bags of one class alone: probabilities are given, no prediction"
    return none if value is None else f"{value:.6g}"
