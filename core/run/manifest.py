"""The `manifest` verb: a folder or a table becomes a checked manifest; what does not fit is listed."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from core.data.audit import Finding, audit
from core.data.columns import compile_pattern
from core.data.manifest import Manifest, ManifestOptions
from core.data.table import read_table
from core.files import atomic_write
from core.raster.listing import list_inputs
from core.raster.reader import Reader
from core.run.instantiate import instantiate
from core.run.status import exit_status, write_status
from core.run.tables import manifest_options
from core.types import Fate, UserError

Unmatched = tuple[str, str]  # name, reason
SHOWN = 10


def run(cfg: DictConfig, folder: Path) -> int:
    """Runs the verb.

    Args:
        cfg: ``input`` (a folder to scan) or ``manifest`` (a table to check), ``manifest_options``, ``reader``,
            ``data.resolution``, ``dry_run``, ``allow_failures``.
        folder: of the run; receives ``manifest.csv``, ``unmatched.csv``, ``audit.json`` and ``status.csv``.

    Returns:
        0, or 3 when a file does not match or cannot be opened, or the audit refuses the splits.

    Raises:
        UserError: wrong keys, no picture at all, a malformed table.
    """
    options = manifest_options(cfg)
    reader: Reader = instantiate(cfg.reader)
    if (cfg.input is None) == (cfg.manifest is None):
        raise UserError(
            "the verb takes a folder to scan or a table to check",
            todo="set input= to a folder, or manifest= to a CSV or Parquet file, and not both",
        )
    if cfg.input is not None:
        manifest, unmatched, others = scan(Path(cfg.input), reader, options)
    else:
        manifest, unmatched, others = Manifest.read(cfg.manifest, options), [], 0
    lonely = alone(manifest, options)
    fates = [*manifest.fates, *(Fate(name, "refused", reason) for name, reason in unmatched)]
    fates += open_all(manifest, reader, cfg.data.resolution, dict(lonely))
    refused = {fate.path for fate in fates if fate.status == "refused"}
    manifest = manifest.with_frame(manifest.frame[~manifest.frame["path"].isin(refused)])
    findings = audit(manifest)
    unmatched = [*unmatched, *lonely]
    if not cfg.dry_run:
        manifest.write(folder / "manifest.csv")
        _write_unmatched(folder / "unmatched.csv", unmatched)
        _write_audit(folder / "audit.json", manifest, findings)
        write_status(folder, fates)
    _print(manifest, fates, unmatched, others, findings)
    if any(finding.severity == "refuse" for finding in findings):
        return 3
    return exit_status(fates, cfg.allow_failures)


def scan(source: Path, reader: Reader, options: ManifestOptions) -> tuple[Manifest, list[Unmatched], int]:
    """A manifest of the pictures below a folder; fields come out of their names by the pattern.

    Returns:
        The manifest, pictures that do not fit (name, reason), and the number of files that are no pictures.

    Raises:
        UserError: there is no picture, or none matches.
    """
    listing = list_inputs(reader, source)
    root = source if source.is_dir() else source.parent
    unmatched = [(item.name, item.problem) for item in listing.inputs if item.problem]
    names = [item.name for item in listing.inputs if not item.problem]
    if options.pattern is not None:
        pattern = compile_pattern(options.pattern)
        unmatched += [(name, "does not match the pattern") for name in names if not pattern.search(name)]
        names = [name for name in names if pattern.search(name)]
        if not names:
            shown = ", ".join(name for name, _ in unmatched[:3])
            raise UserError(
                f"no picture matches manifest_options.pattern '{options.pattern}'",
                f"{source} has {shown}",
                "correct the pattern; it is searched in the path below the folder",
            )
    table = pd.DataFrame({"path": pd.Series(names, dtype=object)})
    return Manifest.of(table, source, root, "", options), unmatched, len(listing.ignored)


def alone(manifest: Manifest, options: ManifestOptions) -> list[Unmatched]:
    """Pictures whose key is not in the joined table."""
    if options.table is None:
        return []
    keys = set(read_table(Path(options.table))[options.on].dropna().astype(str))
    frame = manifest.frame
    return [
        (str(name), f"{options.on} '{key}' is not in {Path(options.table).name}")
        for name, key in zip(frame["path"], frame[options.on], strict=True)
        if str(key) not in keys
    ]


def open_all(manifest: Manifest, reader: Reader, resolution: float | None, lonely: dict[str, str]) -> list[Fate]:
    """Opens every picture once, without reading its pixels; one without a row in the joined table is partial."""
    frame = manifest.frame
    first = frame[frame["path"].notna()].drop_duplicates("path")
    jobs = list(zip(first["path"], first["resolution"], strict=True))

    def opened(job: tuple[str, float]) -> Fate:
        name, given = job
        try:
            reader.open(manifest.root / name, resolution if pd.isna(given) else given).close()
        except UserError as error:
            return Fate(name, "refused", "; ".join(part for part in (error.what, error.todo) if part))
        return Fate(name, "partial", lonely[name]) if name in lonely else Fate(name, "ok")

    with ThreadPoolExecutor() as pool:
        console = Console(stderr=True)
        fates = track(pool.map(opened, jobs), "opening", total=len(jobs), console=console, transient=True)
        return list(fates)


def _write_unmatched(path: Path, unmatched: Sequence[Unmatched]) -> None:
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "reason"))
        writer.writerows(unmatched)


def _write_audit(path: Path, manifest: Manifest, findings: Sequence[Finding]) -> None:
    content = {"schema_version": 1, "notes": manifest.notes, "findings": [finding.as_dict() for finding in findings]}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _print(
    manifest: Manifest, fates: Sequence[Fate], unmatched: Sequence[Unmatched], others: int, findings: Sequence[Finding]
) -> None:
    for fate in [fate for fate in fates if fate.status != "ok"][:SHOWN]:
        print(f"{fate.status}: {fate.path}: {fate.reason}")
    for note in manifest.notes:
        print(f"note: {note}")
    for finding in findings:
        print(f"{finding.severity}: {finding.message}")
    frame = manifest.frame
    counts = Counter(frame["split"].dropna())
    print(f"rows: {len(frame)}")
    print(f"pictures: {frame['path'].nunique()}")
    print(f"groups: {frame['group'].nunique()}")
    print(f"classes: {frame['label'].nunique()}")
    for name, count in sorted(counts.items()):
        print(f"split_{name}: {count}")
    print(f"text_only: {manifest.text_only}")
    print(f"unmatched: {len(unmatched)}")
    print(f"refused: {sum(fate.status == 'refused' for fate in fates)}")
    print(f"other_files: {others}")
