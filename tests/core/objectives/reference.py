"""Slow references: loops over pairs in float64, straight from the formulas, sharing no code with the objectives."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.types import Policy, Relation, Targets


def wanted(targets: Targets, policy: Policy, i: int, j: int) -> float:
    """What a policy says of one pair."""
    names = [relation.name.lower() for relation in Relation]
    if targets.row_owner[i] == targets.column_owner[j]:
        return policy.own
    if targets.row_group[i] == targets.column_group[j]:
        return policy.group
    row, column = int(targets.row_set[i]), int(targets.column_set[j])
    for entry in range(int(targets.indptr[row]), int(targets.indptr[row + 1])):
        if int(targets.indices[entry]) == column:
            return float(getattr(policy, names[int(targets.codes[entry])]))
    return policy.unrelated


def matrix(targets: Targets, policy: Policy) -> list[list[float]]:
    rows, columns = len(targets.row_owner), len(targets.column_owner)
    return [[wanted(targets, policy, i, j) for j in range(columns)] for i in range(rows)]


def logits(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None) -> list[list[Tensor]]:
    zero = scale * 0 if bias is None else bias
    return [[scale * (image * text).sum() + zero for text in texts] for image in images]


def lse(values: list[Tensor]) -> Tensor:
    return torch.logsumexp(torch.stack(values), 0)


def transpose(table: list[list]) -> list[list]:
    return [list(line) for line in zip(*table, strict=True)]


def softmax(s: list[list[Tensor]], want: list[list[float]], row_weight=None, column_weight=None) -> Tensor:
    """The docstring of SoftmaxContrastive."""

    def side(s: list[list[Tensor]], want: list[list[float]], weights: list[float]) -> Tensor:
        total, mass = 0 * s[0][0], 0.0
        for line, targets, weight in zip(s, want, weights, strict=True):
            positive = sum(value for value in targets if value > 0)
            if positive == 0:
                continue
            allowed = [logit for logit, value in zip(line, targets, strict=True) if not math.isnan(value)]
            dot = sum(value / positive * logit for logit, value in zip(line, targets, strict=True) if value > 0)
            total, mass = total + weight * (lse(allowed) - dot), mass + weight
        return total / mass if mass else total

    row_weight = [1.0] * len(s) if row_weight is None else row_weight.tolist()
    column_weight = [1.0] * len(s[0]) if column_weight is None else column_weight.tolist()
    return 0.5 * side(s, want, row_weight) + 0.5 * side(transpose(s), transpose(want), column_weight)


def sigmoid(s: list[list[Tensor]], want: list[list[float]], row_weight=None, column_weight=None) -> Tensor:
    """The docstring of SigmoidContrastive."""
    row_weight = [1.0] * len(s) if row_weight is None else row_weight.tolist()
    column_weight = [1.0] * len(s[0]) if column_weight is None else column_weight.tolist()
    total = 0 * s[0][0]
    for line, targets, row in zip(s, want, row_weight, strict=True):
        for logit, value, column in zip(line, targets, column_weight, strict=True):
            if not math.isnan(value):
                yes, no = torch.logaddexp(0 * logit, -logit), torch.logaddexp(0 * logit, logit)
                total = total + row * column * (value * yes + (1 - value) * no)
    return total / sum(row_weight)


def group_metric(s: list[list[Tensor]], targets: Targets, policy: Policy) -> Tensor:
    """The docstring of GroupMetric, group by group."""
    want = matrix(targets, policy)
    rows, columns = targets.row_group.tolist(), targets.column_group.tolist()

    def side(s: list[list[Tensor]], want: list[list[float]], rows: list[int], columns: list[int]) -> Tensor:
        losses = []
        for g in sorted(set(rows)):
            inside = [j for j, other in enumerate(columns) if other == g]
            if not inside:
                continue
            members = [i for i, other in enumerate(rows) if other == g]
            hardest_positives = [-lse([-s[i][j] for j in inside]) for i in members]
            negatives = [
                s[i][j] + math.log(1 - want[i][j])
                for i in members
                for j, other in enumerate(columns)
                if other != g and want[i][j] < 1
            ]
            positive = lse(hardest_positives)
            losses.append(lse([positive, *negatives]) - positive)
        return sum(losses) / len(losses)

    return 0.5 * side(s, want, rows, columns) + 0.5 * side(transpose(s), transpose(want), columns, rows)
