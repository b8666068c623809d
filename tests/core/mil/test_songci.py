"""SongCi's second stage: gates, masks, answers, loss and attribution against loops over pairs and tokens."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.mil.aggregators.prototypes import Prototypes
from core.mil.gated_fusion import GatedFusion, masked_softmax
from core.mil.segments import segment_sum
from core.mil.tasks.songci import padded
from core.objectives.exchange import LocalExchange
from core.training.step import Plain
from core.types import Policy, Targets, UserError
from tests.core.mil.task_worlds import take
from tests.core.mil.text_world import LENGTHS, NAMES, WIDTH, batch, songci, unit_texts


def test_shut_gates_make_the_fusion_the_identity() -> None:
    torch.manual_seed(0)
    fusion = GatedFusion(8, 5, heads=2)
    tokens, words = torch.randn(3, 4, 8), torch.randn(3, 6, 5)
    there, said = torch.rand(3, 4) > 0.3, torch.rand(3, 6) > 0.3
    fused, spoken = fusion(tokens, there, words, said)
    assert torch.equal(fused, tokens)
    assert torch.equal(spoken, fusion.words(words))
    fused.sum().backward()
    gates = {name: parameter.grad for name, parameter in fusion.named_parameters() if name.endswith("gate")}
    assert sum(float(grad.abs()) > 0 for grad in gates.values() if grad is not None) >= 4, "gates can open"
    with pytest.raises(UserError, match="3 heads do not divide a width of 8"):
        GatedFusion(8, 5, heads=3)


def test_a_softmax_of_nothing_is_zero_and_has_no_nan_in_its_gradient() -> None:
    scores = torch.tensor([[1.0, 2.0, 50.0], [1.0, 2.0, 3.0]], requires_grad=True)
    present = torch.tensor([[True, True, False], [False, False, False]])
    found = masked_softmax(scores, present)
    share = 1 / (1 + math.e)
    torch.testing.assert_close(found, torch.tensor([[share, 1 - share, 0.0], [0.0, 0.0, 0.0]]))
    found.square().sum().backward()
    assert scores.grad.isfinite().all()
    assert not scores.grad[:, 2].any()


def test_a_pack_with_open_gates_equals_its_bags_one_by_one() -> None:
    """Bags of 1 to 12 tiles and findings of 0 to 10 words: what fills the rectangle changes nothing."""
    task = songci()
    given, asked = batch(task), unit_texts(5)
    whole = torch.from_numpy(task.ask(given.bags, asked, given.context))
    one_by_one = [
        torch.from_numpy(task.ask(given.bags.part(b, b + 1), asked, given.context[b : b + 1]))
        for b in range(len(LENGTHS))
    ]
    torch.testing.assert_close(whole, torch.cat(one_by_one), rtol=1e-6, atol=1e-6)
    assert whole.std() > 0.01


def test_findings_count_once_the_gates_are_open() -> None:
    shut, open_ = songci(open_gates=0.0), songci()
    given, asked = batch(shut), unit_texts(4)
    tokens = [task.keys(given.bags, given.context).vectors[:, :1] for task in (shut, open_)]
    alone = [task.keys(given.bags, None).vectors[:, :1] for task in (shut, open_)]
    torch.testing.assert_close(tokens[0], alone[0])
    spoken = [index for index, name in enumerate(given.ids) if name != "bag1"]
    assert (tokens[1] - alone[1])[spoken].abs().amax(dim=(1, 2)).min() > 1e-4
    silent = given.ids.index("bag1")
    alone_there, nothing = given.bags.part(silent, silent + 1), given.context[silent : silent + 1]
    found, without = (open_.ask(alone_there, asked, context) for context in (nothing, None))
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(without))


def test_without_findings_and_with_shut_gates_it_is_the_prototype_head() -> None:
    """The text takes the place of the learned query, behind the head that leads to its space."""
    task = songci(open_gates=0.0)
    aggregator = task.aggregator
    assert isinstance(aggregator, Prototypes)
    given, asked = batch(task, context=False), unit_texts(3)
    found = torch.from_numpy(task.ask(given.bags, asked)).double()
    with torch.no_grad():
        tokens, counts = aggregator.tokens(given.bags)
        keys = F.normalize(task.head(aggregator.values(tokens)), dim=1)
        scale = float(aggregator.logit_scale.exp())
        for bag, (start, stop) in enumerate(zip(counts.offsets, counts.offsets[1:], strict=False)):
            for text, t in enumerate(asked):
                mine = keys[start:stop]
                answer = torch.softmax(scale * mine @ t, dim=0) @ mine
                assert float(F.cosine_similarity(answer, t, dim=0)) == pytest.approx(float(found[bag, text]), abs=1e-6)


def dense(cosines: Tensor, targets: Targets, scale: float) -> float:
    """Softmax cross-entropy over a matrix of cosines with targets of the graph policy, both ways, line by line."""
    rows, columns = cosines.shape
    wanted = targets.block(slice(0, rows), slice(0, columns), Policy.graph(), cosines)

    def side(values: Tensor, aim: Tensor) -> float:
        losses = []
        for line, goal in zip(values, aim, strict=True):
            kept = ~goal.isnan()
            share = goal[kept] / goal[kept].sum()
            losses.append(-(share * (scale * line[kept]).log_softmax(0)).sum())
        return float(torch.stack(losses).mean())

    return 0.5 * (side(cosines, wanted) + side(cosines.T, wanted.T))


def test_loss_is_the_objective_on_every_bag_asked_by_every_text_and_a_pull() -> None:
    task = songci()
    given = batch(task)
    with torch.no_grad():
        found = task.loss(task.encode(given, 1.0), LocalExchange())
        texts = task.captions(given)
        cosines = task.cosines(given.bags, texts, given.context)
    targets = given.targets
    own = targets.row_owner[:, None] == targets.column_owner
    pull = (2 - 2 * cosines[own]).mean()
    aim = dense(cosines, targets, task.model.scale)
    assert float(found.loss) == pytest.approx(0.5 * aim + float(pull), rel=1e-6)


def test_tiles_and_words_add_up_to_the_cosine() -> None:
    task = songci()
    given, asked = batch(task), unit_texts(4)
    found = task.attribution(given.bags, asked, given.context)
    tiles, words, weights = (torch.from_numpy(part).double() for part in (found.tiles, found.words, found.weights))
    assert tiles.shape == weights.shape == (int(LENGTHS.sum()), 4)
    total = segment_sum(tiles, given.bags.offsets) + words.sum(dim=1)
    torch.testing.assert_close(total, torch.from_numpy(task.ask(given.bags, asked, given.context)).double())
    silent = given.ids.index("bag1")
    assert not words[silent].any(), "no findings, no words"
    shares = segment_sum(weights, given.bags.offsets)
    torch.testing.assert_close(shares[silent], torch.ones(4).double())
    assert shares[[b for b in range(len(LENGTHS)) if b != silent]].max() < 1, "words have their share"
    assert words[[b for b in range(len(LENGTHS)) if b != silent]].any(dim=2).any(dim=1).all()


def test_the_token_that_says_a_text_adds_most_to_it_and_its_opposite_takes_away() -> None:
    task = songci()
    given = batch(task)
    bag = int(given.bags.lengths.argmax())
    alone = given.bags.part(bag, bag + 1)
    with torch.no_grad():
        keys = task.keys(alone)
    said = keys.vectors[0, 0]  # the text of the bag's first prototype
    tiles = task.attribution(alone, torch.stack([said, -said])).tiles
    mine = (keys.counts.pair == 0).numpy()
    per_token = torch.zeros(keys.most, 2).index_add(0, keys.counts.pair, torch.from_numpy(tiles))
    assert (tiles[mine, 0] > 0).all()
    assert (tiles[mine, 1] <= 0).all()
    assert int(per_token[:, 0].argmax()) == 0


def test_rows_become_a_rectangle_and_say_where_they_are() -> None:
    rectangle, there = padded(torch.arange(6.0)[:, None], [1, 3, 2])
    assert rectangle[..., 0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 0]]
    assert there.tolist() == [[True, False, False], [True, True, True], [True, True, False]]


def test_it_learns_and_its_attribution_falls_on_the_planted_tiles() -> None:
    """Every second tile lies along its bag's diagnosis, the others say nothing of it; the last two are one group."""
    task = songci(open_gates=0.0)
    aggregator = task.aggregator
    assert isinstance(aggregator, Prototypes)
    aggregator.tokens.prototypes.copy_(torch.eye(WIDTH)[:6])
    task.model.text_tower.backbone.token_embedding.requires_grad_(False)  # most of the time of a step
    given = batch(task, context=False)
    optimiser = torch.optim.Adam([part for part in task.parameters() if part.requires_grad], lr=0.01)
    for _ in range(120):
        optimiser.zero_grad()
        take(Plain(), task, given)
        optimiser.step()
        task.after_step()
    with torch.no_grad():
        asked = task.model.encode_texts(task.model.tokenize([*NAMES])).double()
    kinds = torch.tensor([int(name.removeprefix("bag")) % 4 for name in given.ids])
    found = torch.from_numpy(task.ask(given.bags, asked)).argmax(dim=1)
    planted, owner = given.bags.features.argmax(dim=1) < 4, given.bags.owner
    told = [b for b in range(8) if planted[owner == b].any()]
    assert len(told) >= 7
    assert torch.equal(found.clamp(max=2)[told], kinds.clamp(max=2)[told])
    tiles = task.attribution(given.bags, asked).tiles
    own = torch.from_numpy(tiles)[torch.arange(len(tiles)), kinds[owner]]
    shares = [float(own[planted & (owner == b)].sum() / own[owner == b].sum()) for b in told]
    assert min(shares) > 0.6
