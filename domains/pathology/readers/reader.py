"""The reader of pathology: a whole slide where OpenSlide knows the format, a plain image otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import openslide
import pydicom

from core.raster.pyramid import PyramidRaster
from core.raster.reader import ReadError
from core.types import Unit
from domains.pathology.readers.picture import open_picture
from domains.pathology.readers.slide import SlideRaster

# clearly no pictures: they lie beside slides in every collection
OTHER_SUFFIXES = (
    *(".md", ".txt", ".rst", ".csv", ".tsv", ".json", ".geojson", ".xml", ".yaml", ".yml", ".ini", ".log", ".pdf"),
    *(".html", ".htm", ".doc", ".docx", ".xls", ".xlsx", ".parquet", ".h5", ".hdf5", ".pt", ".pth", ".npy", ".npz"),
    *(".pkl", ".safetensors", ".py", ".ipynb", ".sh", ".qpproj", ".qpdata", ".sha256", ".md5", ".gz", ".zip", ".tar"),
)

# written by scanners alone: when OpenSlide does not know such a file, it is damaged, and no plain image either
SLIDE_SUFFIXES = (".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".dcm", ".avs")


class SlideReader:
    """Opens slides; see :class:`core.raster.reader.Reader`."""

    unit: Unit = "um"

    def open(self, path: str | Path, resolution: float | None = None) -> PyramidRaster:
        """Opens a slide or a plain image.

        Args:
            path: a file; any file of a DICOM series, the .mrxs of a MIRAX slide.
            resolution: microns per level-0 pixel from a manifest or the config; overrides the file's.

        Raises:
            ReadError: it is not there, or cannot be opened, and why.
        """
        path = Path(path)
        if not path.is_file():
            raise ReadError("no such file" if not path.exists() else "is a folder, not a file", str(path))
        if not os.access(path, os.R_OK):
            raise ReadError("cannot be opened: permission denied", str(path))
        if openslide.OpenSlide.detect_format(path) is None:
            if path.suffix.lower() in SLIDE_SUFFIXES:
                raise ReadError(
                    "cannot be opened: OpenSlide does not recognise it, it is damaged or cut off", str(path)
                )
            return open_picture(path, resolution)
        return SlideRaster(path, resolution)

    def identify(self, path: Path) -> str | None:
        """The DICOM series a file belongs to, else the file itself; None for tables, texts, archives and parts.

        A MIRAX slide is its .mrxs file: the folder of the same name holds its parts.
        """
        if path.name.startswith(".") or path.suffix.lower() in OTHER_SUFFIXES:
            return None
        if any(folder.with_suffix(".mrxs").is_file() for folder in path.parents[:1]):
            return None
        if path.suffix.lower() in (".dcm", "") and pydicom.misc.is_dicom(path):
            series = _series(path)
            if series:
                return series
        return str(path)


def _series(path: Path) -> str | None:
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
    except (OSError, pydicom.errors.InvalidDicomError, ValueError, EOFError):
        return None  # a broken header has no siblings; opening it will say what is wrong
    series = header.get("SeriesInstanceUID")
    return None if series is None else f"dicom:{series}"
