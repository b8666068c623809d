"""Slow references of the aggregators, written from the papers: one bag at a time, one tile at a time, in float64.

Each takes the module only for its weights and numbers, and gives (embedding [E], contributions [n, K] for a head
[K, E], auxiliary). Nothing of ``core.mil`` is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Answer = tuple[Tensor, Tensor, dict[str, Tensor]]
Reference = Callable[[Any, Tensor, int, Tensor], Answer]  # module, tiles [n, D], class, head [K, E]


def affine(layer: Any, x: Tensor) -> Tensor:
    out = []
    for row in range(layer.weight.shape[0]):
        value = sum(layer.weight[row, i] * x[i] for i in range(len(x)))
        out.append(value if layer.bias is None else value + layer.bias[row])
    return torch.stack(out)


def relu(x: Tensor) -> Tensor:
    return torch.stack([value if value > 0 else value * 0 for value in x])


def layers(module: Any, tiles: Tensor) -> list[Tensor]:
    """h of every tile: the linear layers of ``module.tiles`` with ReLU after each."""
    hidden = []
    for tile in tiles:
        for layer in module.tiles:
            if isinstance(layer, torch.nn.Linear):
                tile = relu(affine(layer, tile))
        hidden.append(tile)
    return hidden


def softmax(values: list[Tensor]) -> list[Tensor]:
    top = max(value.item() for value in values)
    parts = [math.e ** (value - top) for value in values]
    return [part / sum(parts) for part in parts]


def weighted(weights: list[Tensor], values: list[Tensor], head: Tensor) -> tuple[Tensor, Tensor]:
    embedding = sum(w * v for w, v in zip(weights, values, strict=True))
    return embedding, torch.stack([head @ (w * v) for w, v in zip(weights, values, strict=True)])


def mean(module: Any, tiles: Tensor, label: int, head: Tensor) -> Answer:
    hidden = layers(module, tiles)
    return *weighted([torch.tensor(1 / len(hidden))] * len(hidden), hidden, head), {}


def top(module: Any, tiles: Tensor, label: int, head: Tensor, k: int) -> Answer:
    hidden = layers(module, tiles)
    added = [torch.zeros_like(h) for h in hidden]
    for e in range(len(hidden[0])):
        best = sorted(range(len(hidden)), key=lambda i: hidden[i][e].item(), reverse=True)[:k]
        for i in best:
            added[i][e] = hidden[i][e] / k
    return sum(added), torch.stack([head @ a for a in added]), {}


def maximum(module: Any, tiles: Tensor, label: int, head: Tensor) -> Answer:
    return top(module, tiles, label, head, 1)


def topk(module: Any, tiles: Tensor, label: int, head: Tensor) -> Answer:
    return top(module, tiles, label, head, min(module.k, max(1, len(tiles) // 2)))


def abmil(module: Any, tiles: Tensor, label: int, head: Tensor) -> Answer:
    hidden = layers(module, tiles)
    scores = [affine(module.score, torch.tanh(affine(module.key, h)))[0] for h in hidden]
    return *weighted(softmax(scores), hidden, head), {}


def gated_abmil(module: Any, tiles: Tensor, label: int, head: Tensor) -> Answer:
    hidden = layers(module, tiles)
    scores = []
    for h in hidden:
        gate = 1 / (1 + torch.exp(-affine(module.gate, h)))
        scores.append(affine(module.score, torch.tanh(affine(module.key, h)) * gate)[0])
    return *weighted(softmax(scores), hidden, head), {}


def clam(module: Any, tiles: Tensor, label: int, head: Tensor) -> Answer:
    hidden = layers(module, tiles)
    scores = []  # of every tile, [branches]
    for h in hidden:
        gate = 1 / (1 + torch.exp(-affine(module.gate[0], h)))
        scores.append(affine(module.score, torch.tanh(affine(module.key[0], h)) * gate))
    embeddings, contributions = [], torch.zeros(len(tiles), len(head))
    width = len(hidden[0])
    for c in range(len(scores[0])):
        part = head[:, c * width : (c + 1) * width]
        embedding, contribution = weighted(softmax([s[c] for s in scores]), hidden, part)
        embeddings.append(embedding)
        contributions = contributions + contribution

    k = min(module.k, len(tiles) // 2)
    total = torch.zeros(())
    classes = module.instance.weight.shape[0]
    for c in range(classes if k else 0):
        branch = c if len(scores[0]) > 1 else 0
        order = sorted(range(len(tiles)), key=lambda i: scores[i][branch].item(), reverse=True)
        margin = [affine(module.instance, h)[c] for h in hidden]
        high, low = order[:k], order[::-1][:k]
        if c == label:
            losses = [torch.log(1 + torch.exp(1 - margin[i])) for i in high]
            losses += [torch.log(1 + torch.exp(1 + margin[i])) for i in low]
        elif module.exclusive:
            losses = [torch.log(1 + torch.exp(1 + margin[i])) for i in high]
        else:
            continue
        total = total + sum(losses) / len(losses)
    if module.exclusive:
        total = total / classes
    return torch.cat(embeddings), contributions, {"instance": 0.3 / 0.7 * total}


def dsmil(module: Any, tiles: Tensor, label: int, head: Tensor) -> Answer:
    hidden = layers(module, tiles)
    scores = [affine(module.score, h) for h in hidden]
    query = [affine(module.query, h) for h in hidden]
    value = [affine(module.value[1], h) for h in hidden]
    streams, width = len(scores[0]), len(value[0])
    critical, pooled, losses = [], [], []
    contributions = torch.zeros(len(tiles), len(head))
    for c in range(streams):
        m = max(range(len(tiles)), key=lambda i: scores[i][c].item())
        critical.append(scores[m][c])
        contributions[m] += head[:, c] * scores[m][c]
        attention = softmax([(q @ query[m]) / math.sqrt(len(q)) for q in query])
        part = head[:, streams + c * width : streams + (c + 1) * width]
        embedding, contribution = weighted(attention, value, part)
        pooled.append(embedding)
        contributions = contributions + contribution
        probability = 1 / (1 + torch.exp(-scores[m][c]))
        wanted = label == (1 if streams == 1 else c)
        losses.append(-torch.log(probability if wanted else 1 - probability))
    embedding = torch.cat([torch.stack(critical), *pooled])
    return embedding, contributions, {"critical": sum(losses) / streams}


def layer_norm(layer: Any, x: Tensor) -> Tensor:
    centred = x - x.mean()
    return centred / torch.sqrt((centred**2).mean() + layer.eps) * layer.weight + layer.bias


def nystrom(module: Any, tokens: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Attention of a sequence, and what each token adds to the first row of it (the bias of the projection aside)."""
    count, dim = len(tokens), len(tokens[0])
    width = dim // module.heads
    rows, added = [torch.zeros(dim) for _ in tokens], [torch.zeros(dim) for _ in tokens]
    projected = torch.stack([affine(module.to_qkv, token) for token in tokens])
    for h in range(module.heads):
        q, k, v = (projected[:, i * dim + h * width : i * dim + (h + 1) * width] for i in range(3))
        q = q / math.sqrt(width)
        attention = torch.softmax(q @ k.T, 1)
        if (runs := module.landmarks) < count:
            inside = [[i for i in range(count) if i * runs // count == r] for r in range(runs)]
            few_q = torch.stack([q[run].mean(0) for run in inside])
            few_k = torch.stack([k[run].mean(0) for run in inside])
            left = torch.softmax(q @ few_k.T, 1)
            core = torch.softmax(few_q @ few_k.T, 1)
            right = torch.softmax(few_q @ k.T, 1)
            one = torch.eye(runs)
            z = core.T / (core.abs().sum(0).max() * core.abs().sum(1).max())
            for _ in range(6):
                z = z @ (13 * one - core @ z @ (15 * one - core @ z @ (7 * one - core @ z))) / 4
            attention = left @ z @ right
        kernel = module.convolution.weight[h, 0, :, 0]
        half = len(kernel) // 2
        for i in range(count):
            for j in range(count):
                factor = attention[i, j] + (kernel[j - i + half] if abs(j - i) <= half else 0)
                rows[i][h * width : (h + 1) * width] += factor * v[j]
                if i == 0:
                    added[j][h * width : (h + 1) * width] = factor * v[j]
    return [affine(module.to_out, row) for row in rows], [module.to_out.weight @ a for a in added]


def ppeg(module: Any, tokens: list[Tensor]) -> list[Tensor]:
    side = math.isqrt(len(tokens))
    out = []
    for y in range(side):
        for x in range(side):
            value = tokens[y * side + x] + module.bias
            for kernel in (module.seven.weight, module.five.weight, module.three.weight):
                half = kernel.shape[-1] // 2
                for dy in range(-half, half + 1):
                    for dx in range(-half, half + 1):
                        if 0 <= y + dy < side and 0 <= x + dx < side:
                            value = value + kernel[:, 0, dy + half, dx + half] * tokens[(y + dy) * side + x + dx]
            out.append(value)
    return out


def transmil(module: Any, tiles: Tensor, label: int, head: Tensor) -> Answer:
    hidden = [relu(affine(module.project[0], tile)) for tile in tiles]
    side = math.ceil(math.sqrt(len(hidden)))
    filled = hidden + hidden[: side * side - len(hidden)]
    tokens = [module.token[0], *filled]
    mixed, _ = nystrom(module.attention1, [layer_norm(module.norm1, t) for t in tokens])
    tokens = [t + m for t, m in zip(tokens, mixed, strict=True)]
    tokens = [tokens[0], *ppeg(module.positions, tokens[1:])]
    mixed, added = nystrom(module.attention2, [layer_norm(module.norm2, t) for t in tokens])
    last = tokens[0] + mixed[0]
    deviation = torch.sqrt(((last - last.mean()) ** 2).mean() + module.norm.eps)
    contributions = torch.zeros(len(tiles), len(head))
    for j, a in enumerate(added[1:]):
        contributions[j % len(tiles)] += head @ ((a - a.mean()) / deviation * module.norm.weight)
    return layer_norm(module.norm, last), contributions, {}


def prototypes(module: Any, tiles: Tensor, label: int, head: Tensor) -> Answer:
    centres = module.tokens.prototypes
    nearest = [max(range(len(centres)), key=lambda p: (centres[p] @ t / t.norm()).item()) for t in tiles]
    held = sorted(set(nearest))
    query = module.query / module.query.norm()
    values = {}
    for p in held:
        count, half = nearest.count(p), centres.shape[1] // 2
        angles = [count / 10_000 ** (i / half) for i in range(half)]
        waves = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
        first = affine(module.tokens.count[0], waves)
        token = centres[p] + affine(module.tokens.count[2], first / (1 + torch.exp(-first)))
        inner = affine(module.mlp[0], token)
        gelu = torch.stack([x * 0.5 * (1 + torch.erf(x / math.sqrt(2))) for x in inner])
        value = affine(module.linear, token) + affine(module.mlp[2], gelu)
        values[p] = value / value.norm()
    shares = softmax([torch.exp(module.logit_scale) * (values[p] @ query) for p in held])
    attention = dict(zip(held, shares, strict=True))
    return *weighted([attention[p] / nearest.count(p) for p in nearest], [values[p] for p in nearest], head), {}
