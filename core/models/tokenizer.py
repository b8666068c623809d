"""Text to token ids, offline: open_clip's byte-pair encoding, whose vocabulary lies in its wheel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from core.types import UserError


class Tokenizer(Protocol):
    """Turns texts into ids; picklable, so that loader workers can use it."""

    context_length: int

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[c, context_length] int64, padded with 0; a text that is too long is cut and still ends in the end token."""
        ...

    def words(self, tokens: Tensor) -> list[tuple[str, range]]:
        """The words of one text [context_length] as it was read, each with the columns of its pieces."""
        ...


class ClipTokenizer:
    """CLIP's BPE (49,408 ids, lower case)."""

    def __init__(self, context_length: int) -> None:
        from open_clip import SimpleTokenizer

        self.context_length = context_length
        self._bpe = SimpleTokenizer(context_length=context_length)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        if not texts:
            return torch.zeros((0, self.context_length), dtype=torch.int64)
        tokens: Tensor = self._bpe(list(texts))
        return tokens

    def words(self, tokens: Tensor) -> list[tuple[str, range]]:
        ids = tokens[1 : int(tokens.argmax())].tolist()  # the end token has the largest id
        found, first = [], 0
        for stop in range(1, len(ids) + 1):
            # a blank stands behind the last piece of a word; the last word may have been cut
            if stop == len(ids) or self._bpe.decode(ids[stop - 1 : stop]).endswith(" "):
                found.append((self._bpe.decode(ids[first:stop]).strip(), range(first + 1, stop + 1)))
                first = stop
        return found


def build_tokenizer(name: str, context_length: int) -> Tokenizer:
    """The tokenizer of a weights entry or model config.

    Raises:
        UserError: unknown name.
    """
    if name != "clip":
        raise UserError(f"tokenizer is '{name}'", todo="use clip (open_clip's byte-pair encoding)")
    return ClipTokenizer(context_length)
