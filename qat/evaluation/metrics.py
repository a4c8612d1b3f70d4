"""Formulas of classification metrics from mean statistics; `OfMean` makes them formulas of statistics and weights.

Every ratio with an empty denominator is 0, as torchmetrics and scikit-learn have it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(confusion: Tensor) -> Tensor:
    """100 * sum_c m[c, c] of the mean confusion matrix, (..., C * C) flattened with rows of targets."""
    m = _square(confusion)
    return 100.0 * m.diagonal(dim1=-2, dim2=-1).sum(-1)


def f1(confusion: Tensor) -> Tensor:
    """100 * 2 tp / (2 tp + fp + fn): of class 1 where there are two classes, else the mean over classes (macro)."""
    m = _square(confusion)
    hits = m.diagonal(dim1=-2, dim2=-1)
    scores = _ratio(2 * hits, m.sum(-1) + m.sum(-2))
    return 100.0 * (scores[..., 1] if m.shape[-1] == 2 else scores.mean(-1))


def matthews(confusion: Tensor) -> Tensor:
    """100 * (s c - sum_k p_k t_k) / sqrt((s^2 - sum p_k^2) (s^2 - sum t_k^2)).

    Reference: Gorodkin 2004, Computational Biology and Chemistry 28 (R_K for any number of classes).
    """
    m = _square(confusion)
    targets, predicted = m.sum(-1), m.sum(-2)
    total, hits = m.sum((-2, -1)), m.diagonal(dim1=-2, dim2=-1).sum(-1)
    covariance = hits * total - (targets * predicted).sum(-1)
    spread = (total**2 - (predicted**2).sum(-1)) * (total**2 - (targets**2).sum(-1))
    return 100.0 * _ratio(covariance, spread.clamp(min=0).sqrt())


def entity_f1(counts: Tensor) -> Tensor:
    """100 * 2 tp / (predicted + true entities), micro-averaged; statistics are (tp, predicted, true) of shape (..., 3)."""
    return 100.0 * _ratio(2 * counts[..., 0], counts[..., 1] + counts[..., 2])


def entity_precision(counts: Tensor) -> Tensor:
    """100 * tp / predicted entities."""
    return 100.0 * _ratio(counts[..., 0], counts[..., 1])


def entity_recall(counts: Tensor) -> Tensor:
    """100 * tp / true entities."""
    return 100.0 * _ratio(counts[..., 0], counts[..., 2])


def _square(flat: Tensor) -> Tensor:
    classes = round(flat.shape[-1] ** 0.5)
    return flat.reshape(*flat.shape[:-1], classes, classes)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    safe = torch.where(denominator > 0, denominator, torch.ones_like(denominator))
    return torch.where(denominator > 0, numerator / safe, torch.zeros_like(numerator))
