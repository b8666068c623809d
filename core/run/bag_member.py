"""One trained run over bags, applied: what it says of bags, and what tiles and words brought."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from core.evaluation.metrics import FloatArray
from core.evaluation.subject import embed_captions
from core.mil.bags import PackedBags
from core.mil.tasks.alignment import TextTask
from core.mil.tasks.task import BagTask, Explained
from core.models.weights import load_strictly, read_tensors
from core.run.bag_facts import FACTS, Facts, read_facts
from core.run.bags import build_task
from core.run.folder import WEIGHTS
from core.run.load import load_config
from core.types import UserError


@dataclass(frozen=True)
class Member:
    """One trained run."""

    folder: Path
    task: BagTask  # in evaluation mode, on the CPU
    facts: Facts

    @cached_property
    def vocabulary(self) -> Tensor:
        """Unit embeddings [V, D] of what a text task asks."""
        assert isinstance(self.task, TextTask)
        return torch.from_numpy(embed_captions(self.task.model, [entry.text for entry in self.facts.vocabulary]))

    def outcome(self, bags: PackedBags, context: str | None = None) -> FloatArray:
        """What may be averaged with other members, [B, O]: risks on the scale of the training bags, cosines of texts.

        Args:
            bags: B of them, which ``context`` is read together with.
            context: None where the task sees bags alone.
        """
        if isinstance(self.task, TextTask):
            return self.task.ask(bags, self.vocabulary, self._read(context, len(bags))).astype(np.float64)
        values = self.task.comparable(self.task.predict(bags))
        mean, deviation = self.facts.risk_scale or (0.0, 1.0)
        scaled: FloatArray = (values - mean) / deviation
        return scaled

    def explain(self, bags: PackedBags, context: str | None = None, entry: int = 0) -> Explained:
        """What the tiles of one bag brought; of a text task to the cosine of one entry of the vocabulary.

        To a risk they are in deviations of the training bags' risks, as :meth:`outcome` is: a member whose log-risks
        are wide must not outvote the others in a map when it does not in the risk.
        """
        if isinstance(self.task, TextTask):
            asked = self.vocabulary[entry : entry + 1]
            found = self.task.attribution(bags, asked, self._read(context, 1))
            return Explained(found.weights[:, 0], found.tiles, found.words[0] if found.words.size else None)
        explained = self.task.explain(bags)
        if self.facts.risk_scale is None:
            return explained
        return replace(explained, contributions=explained.contributions / np.float32(self.facts.risk_scale[1]))

    def words(self, context: str, pieces: npt.NDArray[np.float32]) -> list[tuple[str, float]]:
        """The words of a text, each with the sum of what its pieces [L] brought."""
        assert isinstance(self.task, TextTask)
        words = self.task.model.tokenizer.words(self.task.model.tokenizer([context])[0])
        return [(word, float(pieces[columns.start : columns.stop].sum())) for word, columns in words]

    def _read(self, context: str | None, bags: int) -> Tensor | None:
        assert isinstance(self.task, TextTask)
        return None if context is None else self.task.model.tokenizer([context] * bags)


def read_member(folder: Path) -> Member:
    """A trained run over bags.

    Raises:
        UserError: it learned from pictures, did not end, its weights do not fit, or it aligned bags with texts and
            keeps no vocabulary.
    """
    config, path = load_config(folder), folder / WEIGHTS
    if config.get("road", "pairs") != "bags":
        raise UserError(f"the run '{folder}' learned from pictures, not from bags", "run", "give a run over bags")
    if not path.is_file():
        raise UserError(f"the run '{folder}' has no {WEIGHTS}", todo="it did not end: go on with resume=<that folder>")
    facts = read_facts(folder)
    task = build_task(config, facts.width, facts.classes)
    if isinstance(task, TextTask) and not facts.vocabulary:
        raise UserError(
            f"the run '{folder}' keeps no vocabulary that bags could be asked about",
            str(folder / FACTS),
            "train it again with evaluation.bags.figures as its bag_task sets it; training captions of restricted data "
            "are not kept, so there give knowledge.path",
        )
    load_strictly(task, read_tensors(path), str(path))
    task.eval()
    return Member(folder, task, facts)
