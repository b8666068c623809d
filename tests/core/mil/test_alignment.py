"""Slide-text alignment: the objectives of tiles on bags, whole, in parts and over ranks; texts with the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from core.data.manifest import Manifest
from core.mil.aggregators.mean import MeanPooling
from core.mil.bags import Bag
from core.mil.data import BagDataModule
from core.mil.labels import bag_labels
from core.mil.sampler import TokenBudgetSampler
from core.mil.segments import segment_sum
from core.mil.step import TokenGroups
from core.mil.tasks.alignment import BagAlignment, TextTask
from core.mil.tasks.songci import SongCi
from core.objectives.exchange import LocalExchange, ProcessGroupExchange
from core.run.bag_texts import one_row_a_bag, read_context
from core.training.alignment import AlignmentTask
from core.training.step import Cached, Plain, Step
from core.types import Encoded, Policy, UserError
from tests.core.mil.task_worlds import assert_equal, gradients, take
from tests.core.mil.text_world import (
    LENGTHS,
    WIDTH,
    alignment,
    batch,
    objective,
    small_model,
    songci,
    texts,
    unit_texts,
)
from tests.pool import Pool

KINDS: dict[str, Callable[[], TextTask]] = {"alignment": alignment, "songci": songci}


def test_loss_is_that_of_pictures_with_the_same_embeddings() -> None:
    ours, theirs = alignment(), AlignmentTask(small_model(), objective()).double()
    given = batch(ours)
    encoded = ours.encode(given, 1.0)
    leaves = {name: value.detach().requires_grad_() for name, value in encoded.embeddings.items()}
    again = {name: value.detach().requires_grad_() for name, value in encoded.embeddings.items()}
    one, other = (
        task.loss(Encoded(embeddings, {}, given.targets), LocalExchange())
        for task, embeddings in ((ours, leaves), (theirs, again))
    )
    assert float(one.loss) == float(other.loss) > 0
    for loss in (one.loss, other.loss):
        loss.backward()
    assert all(torch.equal(leaves[name].grad, again[name].grad) for name in leaves)


def test_bags_of_one_diagnosis_are_no_negatives_of_each_other() -> None:
    """Bags 0 and 4 have diagnosis 0, in a group; of those of another group none is wanted."""
    task = alignment()
    targets = batch(task).targets
    rows = {int(owner): row for row, owner in enumerate(targets.row_owner)}
    everything = slice(0, len(targets.row_owner)), slice(0, len(targets.column_owner))
    wanted = targets.block(*everything, Policy.graph(), torch.zeros(1))
    of_four = (targets.column_owner == 4).nonzero().flatten()
    assert (wanted[rows[0], of_four] == 1).all()
    assert (wanted[rows[1], of_four] == 0).all()
    assert len(targets.column_owner) == len(LENGTHS) + 3, "bags 0, 3 and 6 have two captions each"


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_give_the_gradient_of_the_whole(kind: str) -> None:
    whole, parts = KINDS[kind](), KINDS[kind]()
    one = take(Plain(), whole, batch(whole))
    other = take(Cached(3), parts, batch(parts))
    assert float(one.loss) == pytest.approx(float(other.loss), rel=1e-6)
    assert_equal(gradients(parts), gradients(whole), 1e-5)  # text embeddings are rounded to float32


@pytest.mark.parametrize("kind", KINDS)
def test_groups_of_bags_are_refused(kind: str) -> None:
    task = KINDS[kind]()
    with pytest.raises(UserError, match="compares bags, and groups of bags cannot see each other"):
        take(TokenGroups(10), task, batch(task))


def on_rank(kind: str, step: Callable[[], Step]) -> tuple[Tensor, dict[str, Tensor]]:
    exchange = ProcessGroupExchange()
    task = KINDS[kind]()
    wrapped = DistributedDataParallel(task, find_unused_parameters=True)

    def backward(loss: Tensor, last: bool) -> None:
        wrapped.require_backward_grad_sync = last
        if last:
            wrapped.reducer.prepare_for_backward([loss])
        (loss * exchange.size).backward()

    terms = step().run(task, batch(task, exchange.rank, exchange.size), exchange, backward)
    return terms.loss, gradients(task)


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_equal_one(kind: str, ranks: Pool) -> None:
    task = KINDS[kind]()
    # a sampler's batch in the order of ranks: the same pairs, in another order
    wanted = take(Plain(), task, batch(task))
    found = ranks.run(on_rank, 2, kind, Plain)
    assert float(sum(loss for loss, _ in found)) == pytest.approx(float(wanted.loss), rel=1e-6)
    for _, gradient in found:
        assert_equal(gradient, gradients(task), 1e-5)


def test_prediction_is_a_unit_vector_and_tiles_add_up_to_a_text() -> None:
    task = alignment()
    bags, asked = batch(task).bags, unit_texts(3)
    found = task.predict(bags)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(task.ask(bags, asked), found @ asked.numpy().T, rtol=1e-5, atol=1e-6)
    added = segment_sum(torch.from_numpy(task.contributions(bags)).double() @ asked.T, bags.offsets)
    with torch.no_grad():
        scores, _ = task(bags)
    torch.testing.assert_close(added, scores @ asked.T, rtol=1e-5, atol=1e-6)
    told = task.attribution(bags, asked)
    sums = segment_sum(torch.from_numpy(told.tiles), bags.offsets).numpy()
    np.testing.assert_allclose(sums, task.ask(bags, asked), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(segment_sum(torch.from_numpy(told.weights), bags.offsets), 1, rtol=1e-5)
    assert told.words.shape == (len(bags), 0, 3)


def test_a_frozen_text_tower_stays_and_the_image_tower_is_gone() -> None:
    model = small_model()
    task = BagAlignment(MeanPooling(WIDTH, (4,), 0.0), model, objective(), train_text=False).double()
    take(Plain(), task, batch(task))
    assert not any(name.startswith("model.text_tower") for name in gradients(task))
    assert "head.weight" in gradients(task)
    assert "model.logit_scale" in gradients(task)
    assert not any("image_tower" in name for name in task.state_dict())


def test_songci_needs_prototypes_and_predicts_nothing_without_a_question() -> None:
    with pytest.raises(UserError, match="needs prototypes and has MeanPooling"):
        SongCi(MeanPooling(WIDTH, (4,), 0.0), small_model(), objective(), partial(lambda **_: None))
    task = songci()
    with pytest.raises(UserError, match="depends on the diagnosis"):
        task.predict(batch(task).bags)


# --------------------------------------------------------------------------------------------------------------------
# Texts with the batch

ROWS: Sequence[tuple[str, str, str, list[str], str | None]] = [
    ("s0", "p0", "train", ["adenoma"], "pale mass"),
    ("s1", "p0", "train", ["adenoma", "necrosis"], "pale mass"),
    ("s2", "p1", "train", ["carcinoma"], None),
    ("s3", "p2", "train", [], "grey"),
    ("s4", "p3", "train", ["adenoma"], "red"),
    ("s5", "p4", "test", ["lymphoma"], "white"),
]


def table() -> Manifest:
    frame = pd.DataFrame(ROWS, columns=["id", "group", "split", "captions", "findings"])
    frame["concepts"], frame["label"] = [[] for _ in ROWS], None
    return Manifest(frame.assign(row=np.arange(len(ROWS)), path=frame["id"]), Path("slides.csv"), Path(), "")


def module(of: str = "group") -> BagDataModule:
    def read(name: str) -> Bag:
        tiles = 1 + int(name[1:])
        return Bag(name, np.ones((tiles, 3), np.float32), np.zeros((tiles, 2), np.float32), 128.0, "um", "vit@1")

    sampler = partial(TokenBudgetSampler, bags_per_batch=4, tokens=10**6, seed=0)
    labels = bag_labels(table(), ["captions"])
    return BagDataModule(table(), read, sampler, labels=labels, bag_of=of)  # type: ignore[arg-type]


def test_the_texts_of_a_patient_are_those_of_all_slides_each_once() -> None:
    frame = one_row_a_bag(table(), "group").frame
    assert frame["captions"].tolist() == [["adenoma", "necrosis"], ["carcinoma"], [], ["adenoma"], ["lymphoma"]]
    assert read_context(table(), "findings", "group") == ["pale mass", "", "grey", "red", "white"]
    assert len(one_row_a_bag(table(), "id").frame) == len(ROWS)
    with pytest.raises(UserError, match="no column 'gross' to read together"):
        read_context(table(), "gross", "group")


def test_a_bag_of_which_nothing_is_written_is_left_out_by_name() -> None:
    fates = module().prepare(progress=False)
    assert {fate.path: fate.reason for fate in fates if fate.status != "ok"} == {"s3": "unknown captions"}


def test_ranks_get_their_own_captions_and_the_targets_of_all() -> None:
    data, task = module(), alignment()
    data.prepare(progress=False)
    data.texts = texts(task)
    whole = data.batch(0)
    assert whole.targets is not None
    assert whole.targets.row_splits == (0, 3)
    parts = [data.batch(0, rank, 2) for rank in range(2)]
    tokens = [part.tokens for part in parts]
    assert all(torch.equal(part.targets.row_owner, parts[0].targets.row_owner) for part in parts)
    for rank, part in enumerate(parts):
        first, last = part.targets.column_splits[rank : rank + 2]
        assert len(tokens[rank]) == last - first
        owned = part.targets.row_owner[part.targets.row_splits[rank] :][part.owner]
        assert torch.equal(part.targets.column_owner[first:last], owned)
        assert len(part.context) == len(part.ids)
    said = {tuple(row) for row in torch.cat(tokens).tolist()}
    assert said == {tuple(row) for row in whole.tokens.tolist()}


def test_parts_of_a_batch_keep_their_captions() -> None:
    whole = batch(alignment())
    parts = whole.micro(3)
    assert torch.equal(torch.cat([part.tokens for part in parts]), whole.tokens)
    assert torch.equal(torch.cat([part.context for part in parts]), whole.context)
    assert torch.equal(torch.cat([part.owner + 3 * place for place, part in enumerate(parts)]), whole.owner)
    assert F.one_hot(whole.owner).sum(0).min() >= 1
