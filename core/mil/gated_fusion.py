"""Tokens of a bag and words of a text, each looking at the other, through gates that start shut."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.types import UserError


class GatedFusion(nn.Module):
    """SongCi's fusion (Nat Commun 16:6773, 2025) in the manner of Flamingo (arXiv 2204.14198, section 2.2, figure 4).

    A block reads ``x <- x + tanh(a) attention(x, y)`` and then ``x <- x + tanh(b) MLP(x)``, on LayerNorms of x and y.
    First ``cross`` times bag and words look at each other, both at what the other was before; then ``self_blocks``
    times all tokens of a bag look at all, words included.

    What the paper leaves open: the gates a and b are one number a block each and start at 0, those of the self blocks
    too, so that an untrained fusion is the identity on both sides; no positions are added (the tokens carry counts, the
    words' states their places); hidden layers are twice as wide as the tokens.

    Absent tokens (the rest of a rectangle) have exactly no weight in any softmax, so a bag's result depends on its own
    tokens alone; a bag without words sees none.

    Args:
        width: E of the bag's tokens, a multiple of ``heads``.
        text_width: of the words, which a linear layer brings to ``width``.
        heads: of every attention.
        cross: rounds of looking at each other.
        self_blocks: blocks over all tokens afterwards.

    Raises:
        UserError: ``heads`` does not divide ``width``.
    """

    def __init__(self, width: int, text_width: int, heads: int = 4, cross: int = 2, self_blocks: int = 1) -> None:
        super().__init__()
        if width % heads:
            raise UserError(
                f"{heads} heads do not divide a width of {width}", "bag_task.fusion.heads", "use a divisor of it"
            )
        self.words = nn.Linear(text_width, width)
        self.to_bag, self.to_words = (nn.ModuleList(GatedBlock(width, heads) for _ in range(cross)) for _ in range(2))
        self.together = nn.ModuleList(GatedBlock(width, heads) for _ in range(self_blocks))

    def forward(self, tokens: Tensor, there: Tensor, words: Tensor, said: Tensor) -> tuple[Tensor, Tensor]:
        """Fused tokens [B, M, E] and fused words [B, L, E].

        Args:
            tokens: [B, M, E] of bags.
            there: [B, M] bool, False where a bag has no such token.
            words: [B, L, text_width]; L may be 0.
            said: [B, L] bool, False where a text has no such word.
        """
        words = self.words(words)
        for to_bag, to_words in zip(self.to_bag, self.to_words, strict=True):
            tokens, words = to_bag(tokens, words, said), to_words(words, tokens, there)
        everything, present = torch.cat([tokens, words], dim=1), torch.cat([there, said], dim=1)
        for block in self.together:
            everything = block(everything, everything, present)
        return everything[:, : tokens.shape[1]], everything[:, tokens.shape[1] :]


class GatedBlock(nn.Module):
    """Attention of x to y and an MLP, each added through the tanh of a gate that starts at 0."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm_other, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key_value = nn.Linear(width, width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.attention_gate, self.mlp_gate = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, y: Tensor, present: Tensor) -> Tensor:
        """x [B, N, E] after a look at y [B, M, E], of which ``present`` [B, M] says what is there."""
        query, (key, value) = self.query(self.norm(x)), self.key_value(self.norm_other(y)).chunk(2, dim=-1)
        attended = masked_attention(self._heads(query), self._heads(key), self._heads(value), present)
        x = x + self.attention_gate.tanh() * self.out(attended.transpose(1, 2).flatten(2))
        mixed: Tensor = x + self.mlp_gate.tanh() * self.mlp(self.norm_mlp(x))
        return mixed

    def _heads(self, x: Tensor) -> Tensor:
        bags, tokens, width = x.shape
        return x.reshape(bags, tokens, self.heads, width // self.heads).transpose(1, 2)  # [B, H, N, E / H]


def masked_attention(query: Tensor, key: Tensor, value: Tensor, present: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V over the keys that are present; zero where none is.

    Args:
        query: [B, H, N, d].
        key, value: [B, H, M, d].
        present: [B, M] bool.

    Returns:
        [B, H, N, d].
    """
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return masked_softmax(scores, present[:, None, None]) @ value


def masked_softmax(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax along the last dimension over what is present; absent entries are exactly 0, rows of nothing else too."""
    # a finite floor: a row of -inf alone would have a NaN gradient
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~present, lowest).softmax(dim=-1).to(scores.dtype) * present
