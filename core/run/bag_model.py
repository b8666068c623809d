"""Trained runs over bags, applied: one run, or the runs of a sweep as one ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from core.evaluation.arms import find_arms, find_runs
from core.evaluation.metrics import FloatArray
from core.mil.bags import Bag, PackedBags
from core.mil.cohort import kind_of
from core.mil.tasks.task import BagTask, Explained
from core.models.weights import load_strictly, read_tensors
from core.run.allowlist import allowing
from core.run.bag_facts import Facts, read_facts
from core.run.bags import build_task
from core.run.folder import WEIGHTS, members
from core.run.load import load_config
from core.types import UserError


@dataclass(frozen=True)
class Member:
    """One trained run."""

    folder: Path
    task: BagTask  # in evaluation mode, on the CPU
    facts: Facts

    def outcome(self, bags: PackedBags) -> FloatArray:
        """What may be averaged with other members, [B, O]; risks on the scale of the training bags."""
        values = self.task.comparable(self.task.predict(bags))
        mean, deviation = self.facts.risk_scale or (0.0, 1.0)
        scaled: FloatArray = (values - mean) / deviation
        return scaled


@dataclass(frozen=True)
class BagModel:
    """Runs of one config apart from seed and fold, frozen, asked together.

    The outcome of a bag is the mean of its members' outcomes: probabilities of classes, grades and findings, estimates
    in the target's own unit, and risks in standard deviations from the mean of each member's own training bags, since a
    log-risk has neither level nor scale. A decision is taken once, on that mean, at the median of the members'
    thresholds (or cuts between risk groups), each of which was found on the member's own validation (or training)
    bags. Where a member has no threshold the ensemble has none, and between two classes nothing is then decided.
    """

    members: tuple[Member, ...]
    config: DictConfig  # of the first member

    @property
    def facts(self) -> Facts:
        """Of the first member; kind and classes are those of all."""
        return self.members[0].facts

    @property
    def outcome_names(self) -> tuple[str, ...]:
        """Names of what :meth:`outcome` gives."""
        return self.members[0].task.outcome_names(self.facts.classes)

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of what :meth:`explain` explains."""
        return self.members[0].task.score_names(self.facts.classes)

    @property
    def threshold(self) -> float | None:
        """On the second of two classes."""
        return _median([member.facts.threshold for member in self.members])

    @property
    def cut(self) -> float | None:
        """Between the risk groups."""
        return _median([member.facts.cut for member in self.members])

    def predict(self, bag: Bag) -> dict[str, float | str | None]:
        """Outcomes of a bag by name, and what is decided of them: ``prediction`` or ``risk_group``.

        Raises:
            UserError: the bag is of another kind than those that were learned from.
        """
        return self.row(self.outcome(bag))

    def outcome(self, bag: Bag) -> FloatArray:
        """Mean outcome of the members, [O]; see :meth:`predict`."""
        self.require(bag)
        bags = PackedBags.pack([bag])
        mean: FloatArray = np.mean([member.outcome(bags)[0] for member in self.members], axis=0)
        return mean

    def row(self, outcome: FloatArray) -> dict[str, float | str | None]:
        """Outcomes [O] by name, and the decision."""
        named: dict[str, float | str | None] = dict(zip(self.outcome_names, outcome.tolist(), strict=True))
        classes, threshold, cut = self.facts.classes, self.threshold, self.cut
        if len(classes) == 2:
            decided = None if threshold is None else classes[int(outcome[1] >= threshold)]
            return {"prediction": decided, **named}
        if classes:
            return {"prediction": classes[int(outcome.argmax())], **named}
        return named if cut is None else {"risk_group": "high" if outcome[0] > cut else "low", **named}

    def explain(self, bag: Bag) -> Explained:
        """Mean over the members of what each tile brought; the sum over the tiles says which way a score went.

        Raises:
            UserError: as for :meth:`predict`.
        """
        self.require(bag)
        bags = PackedBags.pack([bag])
        parts = [member.task.explain(bags) for member in self.members]
        weights, contributions = ([getattr(part, name) for part in parts] for name in ("weights", "contributions"))
        return Explained(np.mean(weights, axis=0), np.mean(contributions, axis=0))

    def require(self, bag: Bag) -> None:
        """Refuses a bag that the runs cannot take.

        Raises:
            UserError: another width, encoder or unit than that of the bags that were learned from.
        """
        if kind_of(bag) != self.facts.kind:
            words = "width {}, encoder {}, coordinates in {}"
            own = words.format(*self.facts.kind)
            raise UserError(
                f"features of {words.format(*kind_of(bag))}; the run learned from {own}",
                todo="embed the slide with the encoder of the run",
            )


def load_bags(run: str | Path, allow: Sequence[str] = ()) -> BagModel:
    """A trained run over bags, or all runs of a sweep as an ensemble.

    Args:
        run: folder of a run, or of a sweep over seeds and folds.
        allow: packages beside the suite's that the config may call.

    Raises:
        UserError: a run did not end, its weights do not fit, or the runs of a sweep are no ensemble: they differ in
            more than seed and fold, or in the classes or the kind of features they learned from.
    """
    folders = members(Path(run))
    with allowing(allow):
        found = tuple(_member(folder) for folder in folders)
    if len(found) > 1:
        _require_alike(Path(run), found)
    return BagModel(found, load_config(folders[0]))


def _member(folder: Path) -> Member:
    config, path = load_config(folder), folder / WEIGHTS
    if config.get("road", "pairs") != "bags":
        raise UserError(f"the run '{folder}' learned from pictures, not from bags", "run", "give a run over bags")
    if not path.is_file():
        raise UserError(f"the run '{folder}' has no {WEIGHTS}", todo="it did not end: go on with resume=<that folder>")
    facts = read_facts(folder)
    task = build_task(config, facts.width, facts.classes)
    load_strictly(task, read_tensors(path), str(path))
    task.eval()
    return Member(folder, task, facts)


def _require_alike(sweep: Path, found: Sequence[Member]) -> None:
    for member in found[1:]:
        for what, one, other in (
            ("features", found[0].facts.kind, member.facts.kind),
            ("classes", found[0].facts.classes, member.facts.classes),
        ):
            if one != other:
                raise UserError(
                    f"the runs '{found[0].folder.name}' and '{member.folder.name}' are no ensemble: their {what} are "
                    f"{', '.join(map(str, one))} and {', '.join(map(str, other))}",
                    str(sweep),
                    "give one of the runs",
                )
    arms, _ = find_arms(find_runs([member.folder for member in found])[0])
    if len(arms) > 1:
        told = "; ".join(f"{arm.label}: {', '.join(run.path.name for run in arm.runs)}" for arm in arms)
        raise UserError(
            f"the runs of the sweep differ in more than seed and fold, so they are no ensemble ({told})",
            str(sweep),
            "give one of the runs, or sweep over seed and data.split.fold alone",
        )


def _median(values: Sequence[float | None]) -> float | None:
    """None where any is: what a member could not find, the others do not know for it."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if len(known) == len(values) else None
