"""Bags and texts: retrieval both ways, and a large vocabulary of diagnoses ranked by its names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from core.evaluation.bag_subject import BagSubject
from core.evaluation.metrics import FloatArray
from core.evaluation.ranking import ranking
from core.evaluation.retrieval import retrieval
from core.evaluation.subject import embed_captions
from core.mil.tasks.alignment import TextTask
from core.mil.texts import BagTexts, Entry
from core.types import Evaluation, UserError


@dataclass(frozen=True)
class Vocabulary:
    """V entries that bags are asked about. It never comes from the tested bags: they cannot narrow it down."""

    names: tuple[str, ...]  # [V]
    concepts: tuple[str, ...]  # [V] their ids in the graph, "" for captions
    source: str  # graph, list, or training captions
    held: tuple[frozenset[int], ...]  # of all bags of the manifest: which entries are right


class TextsOfBags:
    """``ranking`` of a vocabulary by its names, and ``retrieval`` between the test bags and their captions.

    Args:
        vocabulary: ids or names of concepts of the graph; None: all of its concepts, or without a graph the distinct
            captions of the training bags.
        template: what is asked, with one ``{}`` for the name.
    """

    def __init__(self, vocabulary: Sequence[str] | None = None, template: str = "{}") -> None:
        if template.count("{}") != 1:
            raise UserError(f"the template is '{template}'", "evaluation.bags.figures.template", "write {} once")
        self.vocabulary, self.template = vocabulary, template

    def __call__(self, subject: BagSubject, /) -> list[Evaluation]:
        data, cohort = subject.data, subject.cohort()
        assert data.texts is not None, "the road of a text task brings texts"
        tested, train = data.numbers("test"), data.numbers("train")
        entries = vocabulary_of(data.texts, self.vocabulary, train)
        frequency = np.zeros(len(entries.names))
        for bag in train:
            frequency[sorted(entries.held[bag])] += 1
        scores = cosines(subject, [self._text(name) for name in entries.names])
        held = [entries.held[bag] for bag in tested]
        evaluations = [ranking(scores, held, entries.names, frequency, cohort, entries.source)]
        captions = [list(data.texts.captions[bag]) for bag in tested]
        written = [text for several in captions for text in several]
        if written:
            owner = np.repeat(np.arange(len(tested)), [len(several) for several in captions])
            # a pair's score may hang on both, so bags are rows of scores and texts are single columns of them
            scores = cosines(subject, written)
            evaluations.append(retrieval(scores, np.eye(len(written), dtype=np.float32), owner, written, cohort))
        return evaluations

    def asked(self, texts: BagTexts, train: np.ndarray) -> tuple[Entry, ...]:
        """The vocabulary as it is kept with a run; arguments and errors as of :func:`vocabulary_of`."""
        entries = vocabulary_of(texts, self.vocabulary, train)
        known = zip(entries.names, entries.concepts, strict=True)
        return tuple(Entry(name, concept, self._text(name)) for name, concept in known)

    def _text(self, name: str) -> str:
        return self.template.replace("{}", name)


def cosines(subject: BagSubject, texts: Sequence[str], split: str = "test") -> FloatArray:
    """What a text task says of every bag of a split and every text, [N, C]."""
    task, data = cast(TextTask, subject.task), subject.data
    assert data.texts is not None, "the road of a text task brings texts"
    embedded, numbers = torch.from_numpy(embed_captions(task.model, texts)), data.numbers(split)
    parts, done = [], 0
    for pack in data.eval_bags(split):
        context = data.texts.read(numbers[done : done + len(pack)])
        parts.append(task.ask(pack, embedded, context))
        done += len(pack)
    return np.concatenate(parts).astype(np.float64)


def vocabulary_of(texts: BagTexts, chosen: Sequence[str] | None, train: np.ndarray) -> Vocabulary:
    """The entries that are ranked.

    Args:
        texts: of all bags.
        chosen: ids or names of concepts; None takes all, or without a graph the training captions.
        train: numbers of the training bags.

    Raises:
        UserError: a chosen concept is not in the graph, or there is no graph to choose from.
    """
    graph = texts.graph
    if graph is not None:
        concepts = list(range(len(graph))) if chosen is None else [graph.find(text) for text in chosen]
        place = {concept: entry for entry, concept in enumerate(dict.fromkeys(concepts))}
        held = tuple(frozenset(place[concept] for concept in found if concept in place) for found in texts.concepts)
        names, ids = (tuple(known[concept] for concept in place) for known in (graph.names, graph.ids))
        return Vocabulary(names, ids, "graph" if chosen is None else "list", held)
    if chosen is not None:
        raise UserError(
            "a vocabulary is named and there is no graph to find it in",
            "evaluation.bags.figures.vocabulary",
            "give knowledge.path, or leave it out to rank the training captions",
        )
    captions: dict[str, str] = {}  # as they are compared, and as they were first written
    for bag in train:
        for text in texts.captions[bag]:
            captions.setdefault(_plain(text), text)
    entries = {key: entry for entry, key in enumerate(captions)}
    held = tuple(
        frozenset(entries[_plain(text)] for text in several if _plain(text) in entries) for several in texts.captions
    )
    return Vocabulary(tuple(captions.values()), ("",) * len(captions), "training captions", held)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
