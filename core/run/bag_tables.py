"""The tables of ``predict`` with runs over bags: what is known so far, on disk again and again while patients go by."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from core.files import atomic_write
from core.run.status import write_status
from core.types import Fate

EVERY = 60.0  # seconds between two writings: what a kill costs at most
COLUMNS = ("group", "slides", "refused_slides", "tiles")  # where no patient was predicted
WORDS = ("group", "bag", "place", "word", "contribution")


class Tables:
    """``predictions.csv``, ``status.csv`` and, where texts are read with bags, ``words.csv`` of a run.

    Each is always whole and of the patients so far; ``status.csv`` is written last, so whoever is in it is in the
    others. Whether the run has ended is said by its ``status.json``.

    Args:
        folder: of the run.
        with_words: whether there is a ``words.csv``.
    """

    def __init__(self, folder: Path, with_words: bool) -> None:
        self.folder, self.with_words = folder, with_words
        self.lines: list[Mapping[str, object]] = []  # one a predicted patient
        self._words: list[Mapping[str, object]] = []
        self._fates: dict[int, Fate] = {}
        self._written = time.monotonic()

    @property
    def fates(self) -> list[Fate]:
        """Of every slide so far, in the order of the manifest."""
        return [self._fates[row] for row in sorted(self._fates)]

    def add(
        self,
        fates: Mapping[int, Fate],
        line: Mapping[str, object] | None = None,
        words: Sequence[Mapping[str, object]] = (),
    ) -> None:
        """One more patient.

        Args:
            fates: of its slides, by their row in the manifest.
            line: of ``predictions.csv``; None where nothing could be predicted.
            words: lines of ``words.csv``.
        """
        self._fates |= fates
        self._words += words
        if line is not None:
            self.lines.append(line)

    def write_when_due(self) -> None:
        """:meth:`write`, unless that was a moment ago."""
        if time.monotonic() - self._written >= EVERY:
            self.write()

    def write(self) -> None:
        """Writes all tables.

        Raises:
            WriteError: the folder cannot be written, or the disk is full.
        """
        with atomic_write(self.folder / "predictions.csv") as temporary:
            (pd.DataFrame(self.lines) if self.lines else pd.DataFrame(columns=COLUMNS)).to_csv(temporary, index=False)
        if self.with_words:
            with atomic_write(self.folder / "words.csv") as temporary:
                pd.DataFrame(self._words, columns=WORDS).to_csv(temporary, index=False)
        write_status(self.folder, self.fates)
        self._written = time.monotonic()  # from the end of it: large tables must not be all that is done
