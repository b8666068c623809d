"""Every aggregator keeps the contract, equals its slow reference, and learns a planted tile."""

from __future__ import annotations

import functools
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

import conf
import core.mil.attention
from core.mil.aggregator import Aggregator, BagOutput, check_aggregator, random_bags, tile_shares
from core.mil.aggregators import clam, dsmil, mean, prototypes, topk, transmil
from core.mil.aggregators import max as max_pooling
from core.mil.bags import PackedBags
from core.mil.chunked import map_in_chunks, pool_in_chunks
from core.mil.nystrom import NystromAttention, means_of_runs, pseudo_inverse
from core.mil.segments import segment_max, segment_mean, segment_sum
from core.mil.standardise import Standardised
from core.run.instantiate import instantiate
from core.types import UserError
from tests.core.mil import aggregator_reference as reference

CONFIGS = sorted(Path(conf.__path__[0], "aggregator").glob("*.yaml"))
NAMES = [path.stem for path in CONFIGS]
SMALL: dict[str, dict[str, Any]] = {
    "mean": {"hidden": [5, 4]},
    "max": {"hidden": [4]},
    "topk": {"hidden": [4], "k": 3},
    "abmil": {"hidden": [], "attention": 3},
    "gated_abmil": {"hidden": [4], "attention": 3},
    "clam": {"hidden": 4, "attention": 3, "k": 3},
    "dsmil": {"hidden": [4], "query": 3, "value": 5},
    "transmil": {"width": 8, "heads": 2, "landmarks": 4},
    "prototypes": {"prototypes": 6, "width": 7},
}


def build(name: str, in_features: int = 6, classes: int | None = 3, seed: int = 0, **others: Any) -> Aggregator:
    """The config of an aggregator with its open keys filled in."""
    cfg = OmegaConf.load(next(path for path in CONFIGS if path.stem == name))
    known = {"in_features": in_features, "classes": classes}
    for key in [key for key in cfg if key in known and cfg[key] is None]:
        cfg[key] = known[str(key)]
    torch.manual_seed(seed)
    made = instantiate(OmegaConf.merge(cfg, others))
    assert isinstance(made, Aggregator)
    return made


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).detach().norm() / theirs.detach().norm().clamp(min=1e-30))


@pytest.mark.parametrize("name", NAMES)
def test_config_keeps_the_contract(name: str) -> None:
    check_aggregator(build(name), classes=3)


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("clam", {"branches": "multi", "exclusive": True}),
        ("clam", {"classes": None}),
        ("dsmil", {"classes": 2}),
        ("dsmil", {"classes": None}),
        ("mean", {"hidden": []}),
        ("prototypes", {"in_features": 5}),
    ],
)
def test_other_settings_keep_the_contract(name: str, others: dict[str, Any]) -> None:
    check_aggregator(build(name, **{**SMALL[name], **others}), classes=others.get("classes") or 3)


CASES = [(name, {}) for name in NAMES] + [
    ("clam", {"branches": "multi"}),
    ("clam", {"branches": "multi", "exclusive": True}),
    ("dsmil", {"classes": 2}),
]


@pytest.mark.parametrize(("name", "others"), CASES)
def test_equals_slow_reference_with_gradient(name: str, others: dict[str, Any]) -> None:
    """Values, contributions and auxiliary terms at 1e-10; gradients of all parameters of a loss over all of them."""
    model = build(name, **{**SMALL[name], **others}).double().eval()
    for parameter in model.parameters():  # away from inits that are zero or the same
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    random = torch.Generator().manual_seed(1)
    bags = random_bags((11, 1, 5, 9), 6, random)
    labels = torch.tensor([1, 0, 0, 1] if others.get("classes") == 2 else [1, 0, 2, 0])
    head = torch.randn(3, model.width, generator=random, dtype=torch.float64)

    output = model(bags, labels)
    torch.set_default_dtype(torch.float64)
    try:
        slow: reference.Reference = getattr(reference, {"max": "maximum"}.get(name, name))
        answers = [
            slow(model, bags.features[a:b], label, head)
            for (a, b), label in zip(pairwise(bags.offsets.tolist()), labels.tolist(), strict=True)
        ]
    finally:
        torch.set_default_dtype(torch.float32)
    embeddings = torch.stack([answer[0] for answer in answers])
    assert distance(output.embedding, embeddings) < 1e-10
    contributions = torch.cat([answer[1] for answer in answers])
    assert distance(model.contributions(output, head), contributions) < 1e-10
    assert set(output.auxiliary) == set(answers[0][2])
    wanted = embeddings.square().sum()
    found = output.embedding.square().sum()
    for key, value in output.auxiliary.items():
        terms = torch.stack([answer[2][key] for answer in answers]).mean()
        assert distance(value, terms) < 1e-10
        wanted, found = wanted + terms, found + value
    parameters = list(model.parameters())
    ours, theirs = (torch.autograd.grad(loss, parameters) for loss in (found, wanted))
    for (key, _), one, other in zip(model.named_parameters(), ours, theirs, strict=True):
        assert distance(one, other) < 1e-9, key


@pytest.mark.parametrize("name", [name for name in NAMES if name != "transmil"])
def test_contributions_of_pooling_heads_sum_to_the_logits(name: str) -> None:
    model = build(name, **SMALL[name]).double().eval()
    random = torch.Generator().manual_seed(2)
    bags = random_bags((4, 1, 23), 6, random)
    head = torch.randn(2, model.width, generator=random, dtype=torch.float64)
    output = model(bags)
    assert distance(segment_sum(model.contributions(output, head), bags.offsets), output.embedding @ head.T) < 1e-12


@pytest.mark.parametrize("name", [name for name in NAMES if name != "transmil"])
def test_chunks_change_neither_values_nor_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack in chunks of 7 tiles with recomputation against the same in one piece, in float32."""

    def run(chunk: int) -> list[Tensor]:
        for module in (core.mil.attention, mean, max_pooling, topk, dsmil, prototypes):
            if hasattr(module, "map_in_chunks"):
                monkeypatch.setattr(module, "map_in_chunks", lambda f, x, **_: map_in_chunks(f, x, chunk))
        monkeypatch.setattr(core.mil.attention, "pool_in_chunks", functools.partial(pool_in_chunks, chunk=chunk))
        model = build(name, **SMALL[name]).eval()
        bags = random_bags((30, 1, 9), 6, torch.Generator().manual_seed(0))
        bags = PackedBags(bags.features.float(), bags.coordinates, bags.offsets, bags.ids)
        output = model(bags, torch.tensor([0, 1, 2]))
        loss = output.embedding.square().sum() + sum(output.auxiliary.values())
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        assert output.values is not None
        return [output.embedding, output.weights, output.values, *gradients]

    for one, other in zip(run(7), run(1_000), strict=True):
        assert distance(one, other) < 1e-5


LEARNING: dict[str, dict[str, Any]] = {
    **{name: {"hidden": [16]} for name in ("mean", "max", "topk", "abmil", "gated_abmil", "dsmil")},
    "clam": {"hidden": 16},
    "transmil": {"width": 16, "heads": 2, "landmarks": 4},
    "prototypes": {"prototypes": 16},
}


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_under_autocast_is_near_float32(name: str) -> None:
    """Embeddings within 5e-2 (a critical tile may be another one), and every gradient finite."""
    model = build(name, **SMALL[name]).eval()
    bags = random_bags((30, 1, 9), 6, torch.Generator().manual_seed(0))
    bags = PackedBags(bags.features.float(), bags.coordinates, bags.offsets, bags.ids)
    labels = torch.tensor([0, 1, 2])
    wanted = model(bags, labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(bags, labels)
    assert distance(found.embedding.float(), wanted.embedding) < 5e-2
    loss = found.embedding.float().square().sum() + sum(found.auxiliary.values())
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("name", NAMES)
def test_finds_a_planted_tile(name: str) -> None:
    """12 bags of noise, every second with a strange tile: the loss falls below 0.1, and that tile contributes most."""
    random = torch.Generator().manual_seed(0)
    bags = random_bags([6] * 12, 6, random)
    features = 0.5 * bags.features.float()
    labels = torch.arange(12) % 2
    planted = bags.offsets[:-1][labels == 1] + 2
    features[planted, 0] += 4
    bags = PackedBags(features, bags.coordinates, bags.offsets, bags.ids)
    model = build(name, classes=2, **LEARNING[name])
    model.prepare(features, seed=0)
    head = nn.Linear(model.width, 2)
    optimiser = torch.optim.Adam([*model.parameters(), *head.parameters()], lr=0.01)
    for _ in range(40 if name == "transmil" else 150):
        output = model(bags, labels)
        loss = nn.functional.cross_entropy(head(output.embedding), labels) + sum(output.auxiliary.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    output = model(bags)
    assert nn.functional.cross_entropy(head(output.embedding), labels).item() < 0.1
    if name != "transmil":  # what its tiles say to each other in the first layer belongs to none of them
        difference = model.contributions(output, head.weight) @ torch.tensor([-1.0, 1.0])
        best = segment_max(difference.detach(), bags.offsets)
        assert torch.equal(difference[planted], best[labels == 1])


# --------------------------------------------------------------------------------------------------------------------
# One aggregator each


def test_clam_never_takes_a_tile_for_both_signs() -> None:
    """Three tiles and k = 8: one tile a sign, and the loss by hand. Scores are -1, 0, 2 and the margins 1, 5, -3."""
    model = build("clam", **SMALL["clam"]).eval()
    bags = random_bags((3,), 6, torch.Generator().manual_seed(0))
    instance = nn.Linear(4, 3)
    hidden = model.get_submodule("tiles")(bags.features.float())
    nn.init.zeros_(instance.bias)
    instance.weight.data[1] = torch.linalg.lstsq(hidden.detach(), torch.tensor([[1.0], [5.0], [-3.0]])).solution[:, 0]
    assert isinstance(model, clam.CLAM)
    single = PackedBags(bags.features.float(), bags.coordinates, bags.offsets, bags.ids)
    scores = torch.tensor([[-1.0], [0.0], [2.0]])
    loss = model.instance_loss(single, scores, torch.tensor([1]), instance)
    by_hand = (torch.tensor([1 + 3.0, 1 + 1.0]).exp() + 1).log().mean()  # highest: margin -3; lowest: margin 1
    assert distance(loss, by_hand) < 1e-5


def test_terms_of_one_tile_or_of_an_unknown_class_are_zero() -> None:
    model = build("clam", **SMALL["clam"]).eval()
    bags = random_bags((1, 8), 6, torch.Generator().manual_seed(0))
    bags = PackedBags(bags.features.float(), bags.coordinates, bags.offsets, bags.ids)
    assert float(model(bags.part(0, 1), torch.tensor([2])).auxiliary["instance"]) == 0
    for name, key in (("clam", "instance"), ("dsmil", "critical")):
        model = build(name, exclusive=True, **SMALL[name]).eval() if name == "clam" else build(name, **SMALL[name])
        alone = model(bags.part(1, 2), torch.tensor([1])).auxiliary[key]
        both = model(bags, torch.tensor([-1, 1])).auxiliary[key]
        assert float(alone) > 0
        assert distance(both, alone / 2) < 1e-6


def test_dsmil_holds_the_published_output_as_a_special_case() -> None:
    """(W0 h_m + Wb b) / 2 is the task's head (I, Wb) / 2."""
    model = build("dsmil", classes=3, **SMALL["dsmil"]).double().eval()
    bags = random_bags((9, 4), 6, torch.Generator().manual_seed(0))
    Wb = torch.randn(3, 15, dtype=torch.float64)
    embedding = model(bags).embedding
    scores = model.get_submodule("score")(model.get_submodule("tiles")(bags.features))
    published = (segment_max(scores, bags.offsets) + embedding[:, 3:] @ Wb.T) / 2
    assert distance(embedding @ torch.cat([torch.eye(3), Wb], dim=1).T / 2, published) < 1e-12


def test_topk_lies_between_max_and_mean() -> None:
    bags = random_bags((20, 9), 6, torch.Generator().manual_seed(0))
    found = build("topk", k=1, hidden=[]).eval()(bags).embedding
    assert torch.equal(found, segment_max(bags.features, bags.offsets))
    halves = build("topk", k=99, hidden=[]).eval()(bags).embedding
    ordered = [part.sort(dim=0, descending=True).values for part in bags.features.split([20, 9])]
    assert distance(halves, torch.stack([ordered[0][:10].mean(0), ordered[1][:4].mean(0)])) < 1e-12
    assert (halves > segment_mean(bags.features, bags.offsets)).all()


def test_transmil_names_its_limit() -> None:
    model = build("transmil", max_tiles=10, **SMALL["transmil"])
    with pytest.raises(UserError, match=r"bag 'bag1' has 11 tiles and TransMIL takes 10.*max_tiles"):
        model(random_bags((10, 11), 6, torch.Generator()))
    with pytest.raises(UserError, match=r"bag 'b' has 11 tiles and TransMIL takes 10.*max_tiles"):
        Standardised(model).require_room(("a", "b"), (10, 11))
    build("mean", hidden=[]).require_room(("a",), (10**9,))


@pytest.mark.parametrize(
    ("tiles", "side"), [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (10, 4), (40_000, 200), (40_001, 201)]
)
def test_transmil_fills_the_smallest_square_with_the_first_tiles(tiles: int, side: int) -> None:
    rows = transmil.square(tiles)
    assert len(rows) == side**2
    assert torch.equal(rows[:tiles], torch.arange(tiles))
    assert torch.equal(rows[tiles:], torch.arange(side**2 - tiles))


@pytest.mark.parametrize(("repeats", "tolerance"), [(1, 1e-12), (2, 1e-3)])  # exact; six steps of the pseudo-inverse
def test_nystrom_is_attention_where_landmarks_are_the_tokens(repeats: int, tolerance: float) -> None:
    """No more tokens than landmarks, and runs of equal tokens, where S pinv(S) S = S."""
    torch.manual_seed(0)
    layer = NystromAttention(16, 2, landmarks=12).double()
    layer.to_qkv.weight.data[16:32] = layer.to_qkv.weight.data[:16]  # keys like queries: S is far from singular
    layer.to_qkv.weight.data[:32] *= 10
    tokens = torch.randn(12, 16, dtype=torch.float64).repeat_interleave(repeats, 0)
    q, k, v = (part.unflatten(1, (2, 8)).transpose(0, 1)[None] for part in layer.to_qkv(tokens).chunk(3, dim=1))
    exact = nn.functional.scaled_dot_product_attention(q, k, v) + layer.convolution(v)
    exact = layer.to_out(exact[0].transpose(0, 1).flatten(1))
    assert distance(layer(tokens), exact) < tolerance
    assert distance(layer.first(tokens), layer(tokens)[0]) < 1e-12


def test_nystrom_attribution_sums_to_the_first_row() -> None:
    torch.manual_seed(0)
    layer = NystromAttention(16, 2, landmarks=5).double()
    for count in (2, 5, 17, 40):
        tokens = torch.randn(count, 16, dtype=torch.float64)
        added, attention = layer.attribution(tokens)
        assert distance(added.sum(0) + layer.to_out.bias, layer.first(tokens)) < 1e-12
        assert attention.shape == (count,)


def test_pseudo_inverse_converges_and_runs_cover_the_sequence() -> None:
    matrix = (3 * torch.randn(4, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).softmax(-1)
    assert distance(pseudo_inverse(matrix, 30), torch.linalg.pinv(matrix)) < 1e-8
    tokens = torch.arange(10.0)[:, None]
    assert means_of_runs(tokens, 4)[:, 0].tolist() == [1.0, 3.5, 6.0, 8.5]
    assert torch.equal(means_of_runs(tokens, 10), tokens)


def test_the_scale_of_prototypes_comes_back_from_its_bound() -> None:
    model = build("prototypes", **SMALL["prototypes"]).double()
    model.logit_scale.data.fill_(9.0)
    model.after_step()
    assert float(model.scale().detach()) == pytest.approx(100)
    model(random_bags((9, 5), 6, torch.Generator())).embedding.sum().backward()
    assert model.logit_scale.grad is not None
    assert model.logit_scale.grad != 0


def test_prototypes_count_every_tile_once_and_need_enough_tiles() -> None:
    random = torch.Generator().manual_seed(0)
    bags = random_bags((50, 1, 30), 6, random)
    nearest = torch.randint(7, (81,), generator=random)
    counts = prototypes.count_prototypes(nearest, bags, 7)
    for b, (start, stop) in enumerate(pairwise(bags.offsets.tolist())):
        pairs = slice(int(counts.offsets[b]), int(counts.offsets[b + 1]))
        found = dict(zip(counts.prototype[pairs].tolist(), counts.count[pairs].tolist(), strict=True))
        inside = nearest[start:stop].tolist()
        assert found == {p: inside.count(p) for p in set(inside)}
    assert torch.equal(counts.prototype[counts.pair], nearest)
    with pytest.raises(UserError, match="5 training tiles cannot make 6 prototypes"):
        build("prototypes", **SMALL["prototypes"]).prepare(torch.randn(5, 6), 0)


def test_prototypes_come_from_the_training_tiles() -> None:
    """Tiles around six directions: after ``prepare`` each direction is a prototype; a seed gives the same ones."""
    random = torch.Generator().manual_seed(0)
    centres = nn.functional.normalize(torch.randn(6, 6, generator=random), dim=1)
    tiles = 5 * (centres.repeat(50, 1) + 0.05 * torch.randn(300, 6, generator=random))
    model, again = (build("prototypes", **SMALL["prototypes"]) for _ in range(2))
    model.prepare(tiles, seed=0)
    again.prepare(tiles, seed=0)
    found = model.state_dict()["tokens.prototypes"]
    assert ((centres @ found.T).amax(1) > 0.99).all()
    assert torch.equal(found, again.state_dict()["tokens.prototypes"])
    assert not any(name == "tokens.prototypes" for name, _ in model.named_parameters())


# --------------------------------------------------------------------------------------------------------------------
# The contract finds what is broken


class Broken(Aggregator):
    """Mean pooling with a fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.in_features, self.width, self.fault = 6, 6, fault
        self.layer, self.spare = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, bags: PackedBags, labels: Tensor | None = None) -> BagOutput:
        hidden = self.layer(self.spare(bags.features))
        mass = torch.ones(len(hidden), dtype=hidden.dtype)
        auxiliary = {}
        match self.fault:
            case "neighbours":
                hidden = hidden - hidden.max() * (len(bags) > 1)
            case "order":
                mass = torch.cat([torch.arange(1.0, n + 1) for n in bags.lengths.tolist()]).to(hidden.dtype)
            case "spare":
                hidden = self.layer(bags.features)
            case "sum":
                auxiliary["term"] = segment_sum(hidden, bags.offsets).square().sum()
        weights = tile_shares(mass, bags)
        embedding = segment_sum(weights[:, None] * hidden, bags.offsets)
        return BagOutput(embedding, weights * (2 if self.fault == "shares" else 1), None, auxiliary)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("neighbours", "differs from its bags one by one: embedding"),
        ("order", "depends on the order of tiles"),
        ("spare", r"gives its parameter spare.weight no gradient"),
        ("sum", "differs from its bags one by one: term"),
        ("shares", "are no shares"),
    ],
)
def test_contract_names_the_fault(fault: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_aggregator(Broken(fault))


def test_contract_passes_without_fault() -> None:
    check_aggregator(Broken(""))


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_cpu_on_a_gpu(name: str) -> None:
    model = build(name).eval()
    bags = random_bags((40, 1, 300), 6, torch.Generator().manual_seed(0))
    bags = PackedBags(bags.features.float(), bags.coordinates, bags.offsets, bags.ids)
    labels = torch.tensor([0, 1, 2])
    here, there = model(bags, labels), model.cuda()(bags.to("cuda"), labels.cuda())
    assert distance(there.embedding.cpu(), here.embedding) < 1e-4
    assert distance(there.weights.cpu(), here.weights) < 1e-4
    for key, value in here.auxiliary.items():
        assert distance(there.auxiliary[key].cpu(), value) < 1e-4
