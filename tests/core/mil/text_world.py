"""Bags with captions: tiles around a few directions, each of which is a diagnosis; small text towers and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from core.data.captions import CaptionChooser
from core.data.targets import Relations
from core.data.texts import Texts
from core.mil.aggregators.gated_abmil import GatedABMIL
from core.mil.aggregators.prototypes import Prototypes
from core.mil.bags import PackedBags
from core.mil.data import BagBatch
from core.mil.gated_fusion import GatedFusion
from core.mil.sampler import balanced
from core.mil.tasks.alignment import BagAlignment, TextTask
from core.mil.tasks.songci import SongCi
from core.mil.texts import BagTexts
from core.models.dual_encoder import DualEncoder, build
from core.objectives.softmax import SoftmaxContrastive
from core.types import Policy

WIDTH = 8
NAMES = ("adenoma", "carcinoma", "lymphoma", "necrosis")
LENGTHS = np.array([5, 1, 12, 3, 3, 9, 2, 7])


def small_model(seed: int = 0) -> DualEncoder:
    """A text transformer of one layer; the image tower is never called."""
    torch.manual_seed(seed)
    return build(
        {"tower": "timm:resnet18", "model_args": {"layers": [1, 1, 1, 1], "channels": [4, 4, 4, 4], "stem_width": 4}},
        {"tower": "open_clip:ViT-B-32", "model_args": {"context_length": 12, "width": 16, "heads": 2, "layers": 1}},
        embed_dim=6,
        geometry={"size_px": 32, "resolution": 1.0},
    )


def objective(ancestors: str = "excluded") -> SoftmaxContrastive:
    return SoftmaxContrastive(Policy.graph(ancestors), tile=3)  # type: ignore[arg-type]


def alignment(seed: int = 0) -> BagAlignment:
    model = small_model(seed)
    return BagAlignment(GatedABMIL(WIDTH, (10,), 4, 0.0), model, objective()).double().eval()


def songci(seed: int = 0, open_gates: float = 0.5) -> SongCi:
    """With gates at ``open_gates``: at 0 the fusion is the identity, and most of its gradients are zero."""
    model = small_model(seed)
    fusion = partial(GatedFusion, heads=2, cross=2, self_blocks=1)
    made = SongCi(Prototypes(WIDTH, 6, 10), model, objective(), fusion).double().eval()
    with torch.no_grad():
        for name, parameter in made.fusion.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(open_gates)
    return made


def texts(task: TextTask, context: bool = True) -> BagTexts:
    """Two captions of every third bag, one of the others; diagnosis b mod 4, of which 2 and 3 share a concept set."""
    kinds = [bag % 4 for bag in range(len(LENGTHS))]
    captions = [[NAMES[kind], f"a {NAMES[kind]}"][: 1 + (bag % 3 == 0)] for bag, kind in enumerate(kinds)]
    group = np.array([min(kind, 2) for kind in kinds], np.int64)
    relations = Relations(group, np.zeros(len(kinds), np.int64))
    chooser = CaptionChooser("caption", captions, [None] * len(kinds), seed=3, per_image=2)
    findings = ["" if bag == 1 else f"a mass with {NAMES[kind]} " * (1 + bag % 2) for bag, kind in enumerate(kinds)]
    return BagTexts(
        Texts(chooser, relations, task.model.tokenizer),
        captions,
        [frozenset({kind}) for kind in kinds],
        None,
        findings if context else None,
    )


def pack(seed: int = 0) -> PackedBags:
    """Eight bags in float64: every second tile along the direction of the diagnosis, the others along one of two."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.eye(WIDTH, dtype=torch.float64)[:6]
    owner = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    which = torch.from_numpy(np.where(np.arange(len(owner)) % 2 == 0, owner % 4, 4 + owner // 4))
    noise = 0.2 * torch.randn(len(owner), WIDTH, generator=random, dtype=torch.float64)
    offsets = torch.from_numpy(np.concatenate([[0], LENGTHS.cumsum()]))
    ids = tuple(f"bag{bag}" for bag in range(len(LENGTHS)))
    return PackedBags(centres[which] + noise, torch.zeros(len(owner), 2), offsets, ids)


def batch(task: TextTask, rank: int = 0, size: int = 1, context: bool = True) -> BagBatch:
    """What a rank holds of the one global batch, as the data module makes it."""
    whole, shares = pack(), balanced(LENGTHS, size)
    bags = joined([whole.part(int(bag), int(bag) + 1) for bag in shares[rank]])
    return texts(task, context).spoken(BagBatch(0, bags, {}, bags.ids), shares, rank)


def joined(parts: Sequence[PackedBags]) -> PackedBags:
    lengths = [len(part.features) for part in parts]
    return PackedBags(
        torch.cat([part.features for part in parts]),
        torch.cat([part.coordinates for part in parts]),
        torch.tensor([0, *lengths]).cumsum(0),
        tuple(name for part in parts for name in part.ids),
    )


def unit_texts(count: int, width: int = 6) -> Tensor:
    random = torch.Generator().manual_seed(9)
    return torch.nn.functional.normalize(torch.randn(count, width, generator=random, dtype=torch.float64), dim=1)
