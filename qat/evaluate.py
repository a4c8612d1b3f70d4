"""Evaluate any callable on any data, and compare two evaluations sample by sample.

A metric here is a function of the *mean of per-sample statistics*: accuracy of the mean score, F1 of mean counts of true
positives, predictions and entities, Matthews of the mean confusion matrix. That is what lets any metric have a paired interval:
resampling samples is resampling rows of statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

#: Mean statistics of shape (..., K), float64 -> points of shape (...).
Formula = Callable[[Tensor], Tensor]


class Judge(Protocol):
    """What evaluation needs to know of a task."""

    @property
    def formulas(self) -> Mapping[str, Formula]:
        """Every metric by name; the first one is the task's."""

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """The model's inputs in a batch."""

    def decide(self, outputs: Any, batch: Any) -> Sequence[Any]:
        """One decision per sample: anything that can be compared; a tuple where a sample needs several."""

    def statistics(self, decisions: Sequence[Any], batch: Any) -> Tensor:
        """What the formulas need of each sample, float32 of shape (N, K)."""


def mean_score(statistics: Tensor) -> Tensor:
    """The formula of metrics that are a mean of points per sample: accuracy, exact match."""
    return statistics[..., 0]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model judged on a data set.

    Args:
        decisions: one per sample, N of them.
        statistics: shape (N, K).
        formulas: metrics by name, the task's own first.
    """

    decisions: Sequence[Any]
    statistics: Tensor
    formulas: Mapping[str, Formula]

    @property
    def formula(self) -> Formula:
        return next(iter(self.formulas.values()))

    @property
    def metric(self) -> float:
        """The task's metric in points."""
        return next(iter(self.metrics.values()))

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric in points."""
        means = self.statistics.double().mean(0)
        return {name: float(formula(means)) for name, formula in self.formulas.items()}

    @property
    def count(self) -> int:
        return len(self.statistics)


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
    decisions: list[Any] = []
    statistics: list[Tensor] = []
    with torch.no_grad():
        for batch in batches:
            decided = judge.decide(forward(*judge.inputs(batch)), batch)
            decisions.extend(decided)
            statistics.append(judge.statistics(decided, batch))
            if progress is not None:
                progress(len(decided))
            if limit is not None and len(decisions) >= limit:
                break
    return Evaluation(decisions=decisions[:limit], statistics=torch.cat(statistics)[:limit], formulas=judge.formulas)


def agreement(a: Evaluation, b: Evaluation) -> float:
    """Share of decisions in which two models agree, over the samples that both have seen; of a sample with several (a tag
    per word) each one counts."""
    pairs = [
        alike
        for x, y in zip(a.decisions, b.decisions, strict=False)
        for alike in ([i == j for i, j in zip(x, y, strict=True)] if isinstance(x, tuple) else [x == y])
    ]
    return float(sum(pairs) / len(pairs))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference of two evaluations in points, with its 95 % interval."""

    value: float
    ci95: tuple[float, float]
    count: int

    def contains_zero(self) -> bool:
        return self.ci95[0] <= 0.0 <= self.ci95[1]


def paired_difference(a: Evaluation, b: Evaluation, *, resamples: int = 4000, seed: int = 0) -> Difference:
    """metric(a) - metric(b) with a 95 % percentile interval of the paired bootstrap over samples.

    Samples with equal statistics in both evaluations are interchangeable, so resampling counts of distinct rows is the same
    as resampling samples, and costs little: counts ~ Multinomial(n, shares).

    Reference: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    count, width = min(a.count, b.count), a.statistics.shape[1]
    both = torch.cat([a.statistics[:count], b.statistics[:count]], 1).double().numpy()
    rows, counts = np.unique(both, axis=0, return_counts=True)

    def difference(means: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        tensor = torch.from_numpy(means)
        return (a.formula(tensor[..., :width]) - b.formula(tensor[..., width:])).numpy()

    rng = np.random.default_rng(seed)
    draws = [
        difference(rng.multinomial(count, counts / count, size=size) @ rows / count)
        for size in np.diff(np.r_[0 : resamples : min(500, resamples), resamples])
    ]
    low, high = np.percentile(np.concatenate(draws), [2.5, 97.5])
    return Difference(value=float(difference(counts @ rows / count)), ci95=(float(low), float(high)), count=count)
