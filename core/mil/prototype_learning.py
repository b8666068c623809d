"""SongCi's first stage on embedded tiles: prototypes by swapped Sinkhorn assignment between a student and a teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.data.samplers import philox
from core.mil.bags import PackedBags
from core.mil.data import BagBatch
from core.objectives.exchange import Exchange
from core.training.ema import Ema
from core.training.fit import TrainerOptions, fit
from core.training.optimiser import AdamW, CosineWarmup
from core.training.step import Plain
from core.training.task import Task
from core.types import Encoded, LossTerms

if TYPE_CHECKING:
    from core.types import Batch

TEMPERATURE = 0.1  # of every softmax over prototypes, SwAV's and the paper's for the spread
EPSILON, ROUNDS = 0.05, 3  # of Sinkhorn, as published
IPC_WEIGHT = 0.1  # as published; the other terms weigh 1


@dataclass(frozen=True)
class PrototypeLearning:
    """Learns prototypes from training tiles: ``L = L_SwAV + L_ipd + 0.1 L_ipc + L_memax`` (Nat Commun 16:6773, 2025).

    The published stage trains a ViT together with its prototypes. Here the tower is frozen and tiles come as features:
    z is the unit feature of a tile, and all that student and teacher have is prototypes. So L_DINO, which trains the
    backbone alone, is left out; a view of a tile is its feature with Gaussian noise (the published second stage takes
    that for its augmentation of frozen inputs, with the same bounds) where the paper crops a picture; large batches of
    features need no queue; and prototypes start from k-means, where the paper holds random ones still for 5,000
    iterations. The teacher is the moving average that :class:`core.training.ema.Ema` keeps, and the result is the
    teacher. One machine's tiles are few enough to be learned from on every rank alike.

    Raises:
        UserError: see :class:`core.training.ema.Ema`.
    """

    steps: int = 300
    batch: int = 2048  # tiles a step, at most all there are
    lr: float = 0.003
    momentum: float = 0.99  # of the teacher, to 1 along half a cosine; the paper's 0.996 is for far more steps
    noise: tuple[float, float] = (0.2, 0.5)  # length of the noise in that of the feature, drawn for each tile

    def __call__(self, tiles: Tensor, start: Tensor, seed: int) -> Tensor:
        """Unit prototypes [P, D] from training tiles [N, D] and first prototypes [P, D]; a pure function of these."""
        teacher = Ema(self.momentum, self.steps)
        task = SwappedAssignment(start, teacher, (self.noise[0], self.noise[1]))
        fit(
            task,
            _Draws(F.normalize(tiles.float(), dim=1), min(self.batch, len(tiles)), seed),
            None,
            step=Plain(),
            optimiser=AdamW(self.lr, weight_decay=0.0),
            schedule=CosineWarmup(self.steps),
            seed=seed,
            trainer=TrainerOptions(precision="32-true", accelerator="cpu"),
            updaters=[teacher],
        )
        return F.normalize(task.prototypes.detach(), dim=1).to(start)


class SwappedAssignment(Task):
    """The loss of :class:`PrototypeLearning` on batches of unit tiles.

    Args:
        start: [P, D] first prototypes.
        teacher: keeps the average of ``prototypes``.
        noise: bounds of its length.
    """

    def __init__(self, start: Tensor, teacher: Ema, noise: tuple[float, float]) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(F.normalize(start.float(), dim=1).clone())
        self.teacher, self.noise = teacher, noise

    def encode(self, batch: Batch | BagBatch, share: float) -> Encoded:
        assert isinstance(batch, BagBatch), "tiles come as bags"
        views = [self._view(batch.bags.features) for _ in range(2)]
        prototypes = F.normalize(self.prototypes, dim=1)
        student = [view @ prototypes.T for view in views]  # cosines [n, P]
        with torch.no_grad():
            target = F.normalize(self.teacher.average["prototypes"], dim=1)
            codes = [sinkhorn(view @ target.T) for view in views]
        terms = prototype_terms(student, codes)
        return Encoded({}, {name: share * value for name, value in terms.items()})

    def loss(self, encoded: Encoded, exchange: Exchange) -> LossTerms:
        return LossTerms(self.prototypes.new_zeros(()))

    def exported(self) -> nn.Module:
        return self

    def _view(self, tiles: Tensor) -> Tensor:
        low, high = self.noise
        length = low + (high - low) * torch.rand(len(tiles), 1, device=tiles.device)
        return F.normalize(tiles + length * F.normalize(torch.randn_like(tiles), dim=1), dim=1)


def prototype_terms(student: list[Tensor], codes: list[Tensor]) -> dict[str, Tensor]:
    """The four terms, weighted, of two views.

    Args:
        student: cosines [n, P] of each view with the student's prototypes.
        codes: [n, P] what the teacher assigns each view to, rows sum to 1.

    Returns:
        ``swav``: cross-entropy of a view's softmax with the other view's code, mean over both ways and tiles;
        ``ipd``: ``mean(2 - 2 max_k cos)``, how far a tile is from its prototype;
        ``ipc``: cross-entropy with the nearest prototype; the paper writes cosines as logits, which at P = 1,024 are
        nearly uniform, and here they are divided by the temperature as everywhere;
        ``memax``: ``log P`` less the entropy of the mean softmax, 0 where all prototypes are used alike.
    """
    logs = [(cosine / TEMPERATURE).log_softmax(dim=1) for cosine in student]
    swapped = zip(codes, reversed(logs), strict=True)
    swav = torch.stack([-(code * log).sum(dim=1).mean() for code, log in swapped]).mean()
    cosine, log = torch.cat(student), torch.cat(logs)
    nearest, which = cosine.max(dim=1)
    mean = log.exp().mean(dim=0)
    entropy = -torch.xlogy(mean, mean).sum()
    return {
        "swav": swav,
        "ipd": (2 - 2 * nearest).mean(),
        "ipc": IPC_WEIGHT * F.nll_loss(log, which),
        "memax": math.log(len(mean)) - entropy,
    }


def sinkhorn(cosines: Tensor, epsilon: float = EPSILON, rounds: int = ROUNDS) -> Tensor:
    """Assignment of n tiles to P prototypes that uses prototypes nearly alike (SwAV, arXiv 2006.09882, eq. 3).

    ``exp(cosines / epsilon)`` is scaled by turns until columns sum to n / P and rows to 1, in logarithms; the rows come
    last and are exact.

    Args:
        cosines: [n, P].
        epsilon: the smaller, the harder.
        rounds: of both scalings.

    Returns:
        [n, P], rows sum to 1.
    """
    log = cosines / epsilon
    for _ in range(rounds):
        log = log - log.logsumexp(dim=0, keepdim=True)
        log = log - log.logsumexp(dim=1, keepdim=True)
    return log.exp()


@dataclass(frozen=True)
class _Draws:
    """Random tiles as one bag a step: a function of (seed, step)."""

    tiles: Tensor  # [N, D] unit
    size: int
    seed: int

    def train_batches(self, start_step: int, stop_step: int, rank: int, size: int) -> Iterator[BagBatch]:
        for step in range(start_step, stop_step):
            rows = torch.from_numpy(philox(self.seed, 8, step).permutation(len(self.tiles))[: self.size])
            bag = PackedBags(self.tiles[rows], torch.zeros(len(rows), 2), torch.tensor([0, len(rows)]), ("tiles",))
            yield BagBatch(step, bag, {}, bag.ids)
