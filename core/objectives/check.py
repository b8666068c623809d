"""The contract of objectives, as a function: call ``check_objective(MyObjective())`` in a test of your own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.objectives.example import Example, example
from core.objectives.exchange import CollectiveExchange, Exchange, LocalExchange
from core.objectives.objective import Objective
from core.types import Targets, UserError


@dataclass(frozen=True)
class Result:
    """A loss with its gradients."""

    loss: Tensor
    images: Tensor
    texts: Tensor
    scale: Tensor
    bias: Tensor | None

    def compared(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if value is not None}


def evaluate(objective: Objective, batch: Example, scale: float, exchange: Exchange | None = None) -> Result:
    """Loss and gradients of a rank's share; without an exchange, of the whole batch.

    Raises:
        UserError: the loss is no scalar or has no gradient by one of its inputs.
    """
    exchange = exchange or LocalExchange()
    images, texts = [part.detach().clone().requires_grad_() for part in batch.part(exchange.rank)]
    precise = torch.promote_types(images.dtype, torch.float32)
    logit_scale = torch.tensor(scale, dtype=precise, requires_grad=True)
    bias = None
    if objective.needs_bias:
        bias = torch.tensor(objective.initial_bias or 0.0, dtype=precise, requires_grad=True)
    terms = objective(images, texts, batch.targets, logit_scale, bias, exchange)
    name = type(objective).__name__
    if terms.loss.shape != () or not terms.loss.requires_grad:
        raise UserError(f"the loss of {name} has shape {tuple(terms.loss.shape)} or no gradient", todo="give a scalar")
    if any(part.requires_grad or part.shape != () for part in terms.parts.values()):
        raise UserError(f"a part of the loss of {name} is no detached scalar", todo="detach what is to be logged")
    terms.loss.backward()  # type: ignore[no-untyped-call]
    inputs = {"images": images, "texts": texts, "scale": logit_scale} | ({} if bias is None else {"bias": bias})
    for which, tensor in inputs.items():
        if tensor.grad is None:
            raise UserError(f"{name} gives no gradient by its {which}", todo="every input must stay in the graph")
    gradients = {which: tensor.grad for which, tensor in inputs.items()}
    return Result(**{"loss": terms.loss.detach(), "bias": None, **gradients})


def check_objective(objective: Objective, seed: int = 0, tolerance: float = 1e-9) -> None:
    """Holds an objective to :class:`core.objectives.objective.Objective`.

    Finite and scalar with gradients by every input at its initial scale and at 100; finite in bf16; indifferent to the
    order of a batch; shares of three ragged ranks (threads, here) that sum to the loss and to the gradients of one.

    Args:
        objective: the one to test.
        seed: of the example batches.
        tolerance: norm-relative, for float64.

    Raises:
        UserError: names the clause that is broken.
    """
    name = type(objective).__name__
    for scale in (objective.initial_scale, 100.0):
        batch = example(seed, (12,))
        whole = evaluate(objective, batch, scale)
        _finite(whole, f"{name} at scale {scale:.4g} in float64")
        half = replace(batch, images=batch.images.bfloat16(), texts=batch.texts.bfloat16())
        _finite(evaluate(objective, half, scale), f"{name} at scale {scale:.4g} in bf16")
        shuffled, rows, columns = _shuffle(batch, seed)
        other = evaluate(objective, shuffled, scale)
        ordered = replace(whole, images=whole.images[rows], texts=whole.texts[columns])
        _equal(other, ordered, tolerance, f"{name} depends on the order of the batch")
        ragged = example(seed, (5, 4, 3))
        joined = _over_threads(objective, ragged, scale)
        _equal(joined, evaluate(objective, replace(ragged, targets=_single(ragged.targets)), scale), tolerance,
               f"the shares of {name} over ranks do not sum to the loss of the whole batch")  # fmt: skip


def _single(targets: Targets) -> Targets:
    """The same targets with one rank holding everything."""
    return replace(
        targets,
        row_splits=(0, targets.row_splits[-1]),
        column_splits=(0, targets.column_splits[-1]),
    )


def _shuffle(batch: Example, seed: int) -> tuple[Example, Tensor, Tensor]:
    """Images and captions of a one-rank batch in other orders, with both orders."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(batch.images), generator=random)
    columns = torch.randperm(len(batch.texts), generator=random)
    old = batch.targets
    targets = replace(
        old,
        row_owner=old.row_owner[rows],
        row_group=old.row_group[rows],
        row_set=old.row_set[rows],
        column_owner=old.column_owner[columns],
        column_group=old.column_group[columns],
        column_set=old.column_set[columns],
    )
    return Example(batch.images[rows], batch.texts[columns], targets), rows, columns


def _finite(result: Result, where: str) -> None:
    for which, value in result.compared().items():
        if not torch.isfinite(value).all():
            what = "loss" if which == "loss" else f"gradient by {which}"
            raise UserError(f"the {what} of {where} is not finite", todo="shift exponentials by their maximum")


def _equal(found: Result, wanted: Result, tolerance: float, broken: str) -> None:
    size = torch.stack([value.norm() for value in wanted.compared().values()]).max()
    for which, value in wanted.compared().items():
        other = found.compared()[which]
        # a gradient that is zero in exact arithmetic is compared with the size of the others
        error = float((other - value).norm() / torch.maximum(value.norm(), 1e-3 * size).clamp(min=1e-30))
        if not error <= tolerance:
            what = "loss" if which == "loss" else f"gradient by {which}"
            raise UserError(f"{broken}: the {what} differs by {error:.1e} of its norm")


# --------------------------------------------------------------------------------------------------------------------
# Ranks as threads, so that a contract about many ranks needs no launcher


class _Meeting:
    """A place where ``size`` threads swap values."""

    def __init__(self, size: int) -> None:
        self.slots: list[Tensor | None] = [None] * size
        self.barrier = threading.Barrier(size, timeout=60)

    def swap(self, rank: int, value: Tensor) -> list[Tensor]:
        self.slots[rank] = value
        self.barrier.wait()
        values = [slot for slot in self.slots if slot is not None]
        self.barrier.wait()
        return values


class _ThreadExchange(CollectiveExchange):
    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self._rank, self._meeting = rank, meeting

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def size(self) -> int:
        return len(self._meeting.slots)

    def all_gather(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        return torch.cat(self._meeting.swap(self._rank, x))

    def reduce_scatter(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        return torch.split(self.all_reduce(x), list(sizes))[self._rank]

    def all_reduce(self, x: Tensor, largest: bool = False) -> Tensor:
        values = torch.stack(self._meeting.swap(self._rank, x))
        return values.amax(0) if largest else values.sum(0)


def _over_threads(objective: Objective, batch: Example, scale: float) -> Result:
    """Every rank of a batch in a thread of its own; shares and gradients put together again."""
    size = len(batch.targets.row_splits) - 1
    meeting = _Meeting(size)
    results: list[Result | None] = [None] * size
    errors: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            results[rank] = evaluate(objective, batch, scale, _ThreadExchange(rank, meeting))
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return join([result for result in results if result is not None])


def join(results: Sequence[Result]) -> Result:
    """Results of all ranks as one: shares and gradients of shared numbers summed, gradients of embeddings in order."""
    biases = [result.bias for result in results if result.bias is not None]
    return Result(
        torch.stack([result.loss for result in results]).sum(),
        torch.cat([result.images for result in results]),
        torch.cat([result.texts for result in results]),
        torch.stack([result.scale for result in results]).sum(),
        torch.stack(biases).sum() if biases else None,
    )
