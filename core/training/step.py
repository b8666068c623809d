"""How a loss becomes gradients: in one piece, or in micro-batches that still see one loss over the whole batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.objectives.exchange import Exchange
from core.types import Batch, Encoded, LossTerms, UserError

Backward = Callable[[Tensor, bool], None]
"""``backward(loss, last)`` adds the gradients of a share of the loss; ranks are synchronised on the last call alone."""


class Coupled(Protocol):
    """What a step needs of a task; see ``core.training.task.Task``."""

    def encode(self, batch: Batch, share: float) -> Encoded: ...

    def loss(self, encoded: Encoded, exchange: Exchange) -> LossTerms: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...


class Step(ABC):
    """Leaves the gradient of the global batch in ``.grad`` of a task's parameters; the optimiser is not its business.

    The loss is ``task.loss(encoded)`` plus the terms that ``task.encode`` gave, which a task does not add itself.

    Args:
        clip_norm: largest norm of the gradient of all parameters together; None leaves it as it is.
    """

    def __init__(self, clip_norm: float | None = None) -> None:
        if clip_norm is not None and not clip_norm > 0:
            raise UserError(f"clip_norm is {clip_norm}", "step.clip_norm", "use a number above 0, or null")
        self.clip_norm = clip_norm

    def run(self, task: Coupled, batch: Batch, exchange: Exchange, backward: Backward) -> LossTerms:
        """Gradients of one optimiser step.

        Args:
            task: called under the caller's autocast and random state.
            batch: this rank's share of the global batch.
            exchange: the way to the other ranks.
            backward: see :data:`Backward`.

        Returns:
            This rank's share of the loss, detached, with its parts; with clipping also ``grad_norm``, the norm before
            it (as a share as well: the sum over ranks is the norm).
        """
        terms = self._gradients(task, batch, exchange, backward)
        parts = {name: value.detach() for name, value in terms.parts.items()}
        if self.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(task.parameters(), self.clip_norm)
            parts["grad_norm"] = norm.detach() / exchange.size
        return LossTerms(terms.loss.detach(), parts)

    @abstractmethod
    def _gradients(self, task: Coupled, batch: Batch, exchange: Exchange, backward: Backward) -> LossTerms: ...


class Plain(Step):
    """One forward pass over the whole share of a rank, one backward pass."""

    def _gradients(self, task: Coupled, batch: Batch, exchange: Exchange, backward: Backward) -> LossTerms:
        share = len(batch.ids) / _global_size(batch, exchange)
        encoded = task.encode(batch, share)
        terms = _with_own(task.loss(encoded, exchange), encoded.terms)
        backward(terms.loss, True)
        return terms


class Cached(Step):
    """Large batches in the memory of small ones, with the gradients of the large one (GradCache, arXiv 2101.06983).

    Embeddings of all micro-batches are made without gradient; one loss over all of them gives its gradient by the
    embeddings (and by parameters of the loss, such as the temperature, once); the micro-batches are then encoded again
    with the random state they had, and the product of embeddings and cached gradient is sent back. Two forward passes
    and one backward pass per sample, one loss per step. Ranks may hold different numbers of micro-batches.

    Args:
        micro_batch: images per micro-batch.
        clip_norm: see :class:`Step`.
    """

    def __init__(self, micro_batch: int, clip_norm: float | None = None) -> None:
        super().__init__(clip_norm)
        if micro_batch < 1:
            raise UserError(f"micro_batch is {micro_batch}", "step.micro_batch", "use a number of images above 0")
        self.micro_batch = micro_batch

    def _gradients(self, task: Coupled, batch: Batch, exchange: Exchange, backward: Backward) -> LossTerms:
        _refuse_batch_norm(task)
        total = _global_size(batch, exchange)
        pieces = batch.micro(self.micro_batch) or [batch]  # a rank without images still takes part
        shares = [len(piece.ids) / total for piece in pieces]

        states, cache = [], []
        with torch.no_grad():
            for piece, share in zip(pieces, shares, strict=True):
                states.append(_RandomState(piece.images.device))
                cache.append(task.encode(piece, share))
        torch.clear_autocast_cache()  # type: ignore[no-untyped-call]  # some releases keep weights without history

        whole = _concatenate(cache)
        terms = task.loss(whole, exchange)
        parameters = [parameter for parameter in task.parameters() if parameter.requires_grad]
        of_embeddings, of_parameters = _differentiate(terms.loss, list(whole.embeddings.values()), parameters)
        sizes = [[len(part.embeddings[name]) for part in cache] for name in whole.embeddings]
        cut = [torch.split(gradient, size) for gradient, size in zip(of_embeddings, sizes, strict=True)]
        del cache

        own: dict[str, Tensor] = {}
        for index, (piece, share, state) in enumerate(zip(pieces, shares, states, strict=True)):
            last = index == len(pieces) - 1
            with state.replayed():
                encoded = task.encode(piece, share)
            surrogate = sum(encoded.terms.values(), terms.loss.new_zeros(()))
            for embedding, gradients in zip(encoded.embeddings.values(), cut, strict=True):
                surrogate = surrogate + (embedding.to(gradients[index].dtype) * gradients[index]).sum()
            if last:  # in the one backward pass that is synchronised, each parameter must take part
                for parameter, gradient in of_parameters:
                    surrogate = surrogate + (parameter * gradient).sum()
            if last or surrogate.requires_grad:  # not so where only the loss has parameters to learn
                backward(surrogate, last)
            for name, value in encoded.terms.items():
                own[name] = own.get(name, torch.zeros_like(value)) + value.detach()
        return _with_own(LossTerms(terms.loss.detach(), terms.parts), own)


def _global_size(batch: Batch, exchange: Exchange) -> int:
    """Images in the global batch; at least 1."""
    if batch.targets is not None:
        return max(batch.targets.row_splits[-1], 1)
    count = torch.tensor(float(len(batch.ids)), device=batch.images.device)
    return max(int(exchange.sum(count)), 1)


def _with_own(terms: LossTerms, own: Mapping[str, Tensor]) -> LossTerms:
    """Adds the terms that need no other sample."""
    parts = dict(terms.parts) | {name: value.detach() for name, value in own.items()}
    return LossTerms(sum(own.values(), terms.loss), parts)


def _concatenate(cache: list[Encoded]) -> Encoded:
    """All micro-batches as one, embeddings as leaves that want a gradient."""
    embeddings = {
        name: torch.cat([part.embeddings[name] for part in cache]).requires_grad_() for name in cache[0].embeddings
    }
    targets = [part.targets for part in cache]
    labels = all(isinstance(value, Tensor) for value in targets)
    return Encoded(embeddings, {}, torch.cat(targets) if labels else targets[0])


def _differentiate(
    loss: Tensor, embeddings: list[Tensor], parameters: list[nn.Parameter]
) -> tuple[list[Tensor], list[tuple[nn.Parameter, Tensor]]]:
    """Gradients by the embeddings, and by those parameters that the loss itself uses."""
    if not loss.requires_grad:
        return [torch.zeros_like(embedding) for embedding in embeddings], []
    gradients = torch.autograd.grad(loss, [*embeddings, *parameters], allow_unused=True)
    of_embeddings = [
        torch.zeros_like(embedding) if gradient is None else gradient
        for embedding, gradient in zip(embeddings, gradients, strict=False)
    ]
    of_parameters = zip(parameters, gradients[len(embeddings) :], strict=True)
    return of_embeddings, [(parameter, gradient) for parameter, gradient in of_parameters if gradient is not None]


def _refuse_batch_norm(task: Coupled) -> None:
    for name, module in task.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise UserError(
                f"{name} is a BatchNorm in training mode: it would see every micro-batch twice, and never the batch",
                "step=cached",
                "use step=plain, or a model without BatchNorm (or with frozen statistics)",
            )


class _RandomState:
    """Torch's random state on the CPU and on the device of a batch, to be played again."""

    def __init__(self, device: torch.device) -> None:
        self.cpu = torch.get_rng_state()
        self.cuda = {device: torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Inside, random numbers come as they came when this was made; outside, they go on as if nothing happened."""
        with torch.random.fork_rng(devices=list(self.cuda)):
            torch.set_rng_state(self.cpu)
            for device, state in self.cuda.items():
                torch.cuda.set_rng_state(state, device)
            yield
