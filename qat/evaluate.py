"""Evaluate any callable on any data, and compare two evaluations sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Judge(Protocol):
    """What evaluation needs to know of a task."""

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """The model's inputs in a batch."""

    def decide(self, outputs: Any) -> Tensor:
        """One decision per sample, shape (N,)."""

    def score(self, decisions: Tensor, batch: Any) -> Tensor:
        """What each decision is worth, in points: float32 of shape (N,), 0 to 100."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model judged on a data set.

    Args:
        decisions: one per sample, shape (N,).
        scores: points per sample, shape (N,).
    """

    decisions: Tensor
    scores: Tensor

    @property
    def metric(self) -> float:
        """Mean score in points."""
        return float(self.scores.double().mean())

    @property
    def count(self) -> int:
        return self.scores.numel()


def evaluate(
    forward: Callable[..., Any],
    batches: Iterable[Any],
    judge: Judge,
    *,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Run `forward` over `batches` without gradient and judge what it returns.

    Args:
        limit: stop after this many samples.
        progress: called with the number of samples of each finished batch.
    """
    decisions, scores, seen = [], [], 0
    with torch.no_grad():
        for batch in batches:
            decided = judge.decide(forward(*judge.inputs(batch)))
            decisions.append(decided)
            scores.append(judge.score(decided, batch))
            seen += decided.numel()
            if progress is not None:
                progress(decided.numel())
            if limit is not None and seen >= limit:
                break
    return Evaluation(decisions=torch.cat(decisions)[:limit], scores=torch.cat(scores)[:limit])


def agreement(a: Evaluation, b: Evaluation) -> float:
    """Share of samples on which two models give the same decision, over the samples that both have seen."""
    count = min(a.count, b.count)
    return float((a.decisions[:count] == b.decisions[:count]).double().mean())


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference of two evaluations in points, with its 95 % interval."""

    value: float
    ci95: tuple[float, float]
    count: int

    def contains_zero(self) -> bool:
        return self.ci95[0] <= 0.0 <= self.ci95[1]


def paired_difference(a: Evaluation, b: Evaluation, *, resamples: int = 4000, seed: int = 0) -> Difference:
    """mean(a) - mean(b) with a 95 % percentile interval of the paired bootstrap over samples.

    Only samples on which the two differ move the mean; resampling counts of distinct differences is the same as resampling
    samples, and costs nothing: counts ~ Multinomial(n, shares).

    Reference: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    count = min(a.count, b.count)
    differences = (a.scores[:count].double() - b.scores[:count].double()).numpy()
    values, counts = np.unique(differences, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(count, counts / count, size=resamples)
    means = draws @ values / count
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(value=float(differences.mean()), ci95=(float(low), float(high)), count=count)
