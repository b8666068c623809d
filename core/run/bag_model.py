"""Trained runs over bags, applied: one run, or the runs of a sweep as one ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from core.evaluation.arms import find_arms, find_runs
from core.evaluation.metrics import FloatArray
from core.evaluation.ranking import TOP
from core.mil.bags import Bag, PackedBags
from core.mil.cohort import kind_of, same_scale
from core.mil.tasks.alignment import TextTask
from core.mil.tasks.task import Explained
from core.run.allowlist import allowing
from core.run.bag_facts import Decision, Facts
from core.run.bag_member import Member, read_member
from core.run.folder import members
from core.run.load import load_config
from core.types import UserError


@dataclass(frozen=True)
class BagModel:
    """Runs of one config apart from seed and fold, frozen, asked together.

    The outcome of a bag is the mean of its members' outcomes: probabilities of classes, grades and findings, estimates
    in the target's own unit, and risks in standard deviations from the mean of each member's own training bags, since a
    log-risk has neither level nor scale. A decision is taken once, on that mean, at the median of the members'
    thresholds (or cuts between risk groups), each of which was found on the member's own validation (or training)
    bags; where runs learned from slides, the mean of a patient's slides is decided by what was found on such means.
    Where a member has no threshold the ensemble has none, and between two classes nothing is then decided.

    Of a task that aligns bags with texts the outcome is how well each entry of the vocabulary, which is kept with the
    run, fits the bag: mean cosines, by which the evaluation ranks too. They are no probabilities. A run with
    ``bags.context`` reads a text together with each bag; an empty one is as good as none.
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
    def ranks(self) -> bool:
        """Whether it ranks a vocabulary by text."""
        return isinstance(self.members[0].task, TextTask)

    @property
    def context(self) -> str | None:
        """The column of what is read together with a bag; None where bags are seen alone."""
        column: str | None = OmegaConf.select(self.config, "bags.context")
        return column

    def score_names(self, entry: int = 0) -> tuple[str, ...]:
        """Names of what :meth:`explain` explains."""
        if self.ranks:
            return (f"score of {self.facts.vocabulary[entry].name}",)
        return self.members[0].task.score_names(self.facts.classes)

    @property
    def threshold(self) -> float | None:
        """On the second of two classes."""
        return self.decision().threshold

    def decision(self, whole: bool = False) -> Decision:
        """By what is decided on a bag, or on a ``whole`` patient (the mean of its bags): medians of the members'."""
        known = [member.facts.decision(whole) for member in self.members]
        thresholds = {name: _median([one.thresholds.get(name) for one in known]) for name in known[0].thresholds}
        return Decision(_median([one.threshold for one in known]), thresholds, _median([one.cut for one in known]))

    def predict(self, bag: Bag, context: str = "") -> dict[str, float | str | None]:
        """Outcomes of a bag by name, and what is decided of them: ``prediction`` (a class), ``prediction.<finding>`` (1
        there, 0 not there) or ``risk_group``; None where no threshold is known; see :meth:`row`.

        Args:
            bag: of the kind that the runs learned from.
            context: what is read together with it, such as its findings.

        Raises:
            UserError: the bag is of another kind, or there is a context and the runs see bags alone.
        """
        return self.row(self.outcome(bag, context))

    def outcome(self, bag: Bag, context: str = "") -> FloatArray:
        """Mean outcome of the members, [O]; see :meth:`predict`."""
        bags, read = self._given(bag, context)
        mean: FloatArray = np.mean([member.outcome(bags, read)[0] for member in self.members], axis=0)
        return mean

    def best(self, outcome: FloatArray) -> int:
        """The entry of the vocabulary that fits best; 0 for tasks without one."""
        return int(outcome.argmax()) if self.ranks else 0

    def row(self, outcome: FloatArray, whole: bool = False) -> dict[str, float | str | None]:
        """Outcomes [O] by name, and the decision: on a bag, or on a ``whole`` patient, whose bags' mean they are.

        Of a vocabulary the first entries: ``top1.name``, ``top1.concept`` (its id in the graph) and ``top1.score``.
        """
        if self.ranks:
            return self._ranked(outcome)
        named: dict[str, float | str | None] = dict(zip(self.outcome_names, outcome.tolist(), strict=True))
        classes, found = self.facts.classes, self.decision(whole)
        if len(classes) == 2:
            decided = None if found.threshold is None else classes[int(outcome[1] >= found.threshold)]
            return {"prediction": decided, **named}
        if classes:
            return {"prediction": classes[int(outcome.argmax())], **named}
        if found.thresholds:
            return {**_findings(named, found.thresholds), **named}
        return named if found.cut is None else {"risk_group": "high" if outcome[0] > found.cut else "low", **named}

    def explain(self, bag: Bag, context: str = "", entry: int = 0) -> Explained:
        """Mean over the members of what each tile brought; the sum over the tiles says which way a score went.

        Args:
            bag: as for :meth:`predict`.
            context: as for :meth:`predict`; its tokens are explained too.
            entry: of a vocabulary the number of what is explained, such as :meth:`best` of an outcome; the
                contributions of tiles and tokens sum to its score, if those of the aggregator sum to its own.

        Raises:
            UserError: as for :meth:`predict`.
        """
        bags, read = self._given(bag, context)
        parts = [member.explain(bags, read, entry) for member in self.members]
        weights, contributions = ([getattr(part, name) for part in parts] for name in ("weights", "contributions"))
        read_too = [part.words for part in parts if part.words is not None]  # of all members or of none
        words = np.mean(read_too, axis=0) if read_too else None
        return Explained(np.mean(weights, axis=0), np.mean(contributions, axis=0), words)

    def words(self, context: str, explained: Explained) -> list[tuple[str, float]]:
        """The words of a context with what each brought, in their order; none where bags are seen alone.

        Only what the text tower could read is here: it cuts a long text.
        """
        return [] if explained.words is None else self.members[0].words(context, explained.words[:, 0])

    def require(self, bag: Bag) -> None:
        """Refuses a bag that the runs cannot take.

        Raises:
            UserError: another width, encoder, unit or scale than that of the bags that were learned from.
        """
        if kind_of(bag) != self.facts.kind:
            words = "width {}, encoder {}, coordinates in {}"
            own = words.format(*self.facts.kind)
            raise UserError(
                f"features of {words.format(*kind_of(bag))}; the run learned from {own}",
                todo="embed the slide with the encoder of the run",
            )
        usual = self.facts.tile_size
        if usual is not None and not same_scale(bag.tile_size, usual):
            raise UserError(
                f"tiles of {bag.tile_size:g} {bag.unit}; the run learned from tiles of {usual:g} {bag.unit}",
                todo="embed the slide at the scale of the run",
            )

    def _given(self, bag: Bag, context: str) -> tuple[PackedBags, str | None]:
        """What the members are given."""
        self.require(bag)
        if context and self.context is None:
            raise UserError("the run sees bags alone and can read no text with them", "context", "leave it out")
        return PackedBags.pack([bag]), None if self.context is None else context

    def _ranked(self, outcome: FloatArray) -> dict[str, float | str | None]:
        """The first entries of the vocabulary, in the order of the evaluation."""
        told: dict[str, float | str | None] = {}
        for place, number in enumerate(np.argsort(-outcome, kind="stable")[:TOP].tolist(), 1):
            entry = self.facts.vocabulary[number]
            told |= {f"top{place}.name": entry.name, f"top{place}.concept": entry.concept or None}
            told[f"top{place}.score"] = float(outcome[number])
        return told


def load_bags(run: str | Path, allow: Sequence[str] = ()) -> BagModel:
    """A trained run over bags, or all runs of a sweep as an ensemble.

    Args:
        run: folder of a run, or of a sweep over seeds and folds.
        allow: packages beside the suite's that the config may call.

    Raises:
        UserError: a run did not end, its weights do not fit, or the runs of a sweep are no ensemble: they differ in
            more than seed and fold, in the classes, in the vocabulary or in the kind or scale of the features they
            learned from. A run that aligns bags with texts keeps no vocabulary.
    """
    folders = members(Path(run))
    with allowing(allow):
        found = tuple(read_member(folder) for folder in folders)
    if len(found) > 1:
        _require_alike(Path(run), found)
    return BagModel(found, load_config(folders[0]))


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
        if found[0].facts.vocabulary != member.facts.vocabulary:
            raise UserError(
                f"the runs '{found[0].folder.name}' and '{member.folder.name}' are no ensemble: they rank different "
                f"vocabularies, of {len(found[0].facts.vocabulary)} and {len(member.facts.vocabulary)} entries",
                str(sweep),
                "give one of the runs, or train with knowledge.path: training captions differ between folds",
            )
    _require_one_scale(sweep, found)
    arms, _ = find_arms(find_runs([member.folder for member in found])[0])
    if len(arms) > 1:
        told = "; ".join(f"{arm.label}: {', '.join(run.path.name for run in arm.runs)}" for arm in arms)
        raise UserError(
            f"the runs of the sweep differ in more than seed and fold, so they are no ensemble ({told})",
            str(sweep),
            "give one of the runs, or sweep over seed and data.split.fold alone",
        )


def _require_one_scale(sweep: Path, found: Sequence[Member]) -> None:
    """Runs of one kind of features alone; an older one that kept no side of its tiles is taken."""
    known = [(member.folder.name, member.facts.tile_size) for member in found if member.facts.tile_size is not None]
    for name, size in known[1:]:
        first, usual = known[0]
        if not same_scale(usual, size):
            unit = found[0].facts.unit
            raise UserError(
                f"the runs '{first}' and '{name}' are no ensemble: they learned from tiles of {usual:g} {unit} and of "
                f"{size:g} {unit}",
                str(sweep),
                "give one of the runs, or train all on features of one scale",
            )


def _findings(named: Mapping[str, Any], thresholds: Mapping[str, float | None]) -> dict[str, float | str | None]:
    return {
        f"prediction.{name}": None if threshold is None else int(named[f"probability.{name}"] >= threshold)
        for name, threshold in thresholds.items()
    }


def _median(values: Sequence[float | None]) -> float | None:
    """None where any is: what a member could not find, the others do not know for it."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if len(known) == len(values) else None
