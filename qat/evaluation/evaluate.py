"""Evaluate any callable on any data, and compare two evaluations sample by sample.

A metric here is a function of *per-sample statistics and how often each sample counts*. Most need the weighted mean of the
statistics only: accuracy of the mean score, F1 of mean counts of true positives, predictions and entities, Matthews of the
mean confusion matrix. Average precision sorts the detections of all images. That is what lets any metric have a paired
interval: resampling samples is counting some of them more often than others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

#: Statistics of R samples (R, K) and how often each counts in B data sets (B, R), both float64 -> points (B,).
Formula = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class OfMean:
    """A formula that needs the mean statistics alone.

    Args:
        of_mean: mean statistics (..., K), float64 -> points (...).
    """

    of_mean: Callable[[Tensor], Tensor]

    def __call__(self, statistics: Tensor, weights: Tensor) -> Tensor:
        return self.of_mean(weights @ statistics / weights.sum(-1, keepdim=True))


class Judge(Protocol):
    """What evaluation needs to know of a task."""

    @property
    def formulas(self) -> Mapping[str, Formula]:
        """Every metric by name; the first one is the task's."""

    def inputs(self, batch: object) -> tuple[Tensor, ...]:
        """The model's inputs in a batch."""

    def predict(self, outputs: object, batch: object) -> Sequence[object]:
        """One prediction per sample: anything that can be compared; a tuple where a sample needs several."""

    def statistics(self, predictions: Sequence[object], batch: object) -> Tensor:
        """What the formulas need of each sample, float32 of shape (N, K)."""

    def alike(self, prediction: object, other: object) -> Sequence[bool]:
        """Of each thing that `prediction` says about a sample, whether `other` says it as well."""


#: The formula of metrics that are a mean of points per sample: accuracy, exact match.
mean_score = OfMean(lambda means: means[..., 0])


def same(prediction: object, other: Any) -> Sequence[bool]:
    """Equal predictions; of a sample with several (a tag per word) each one counts."""
    if isinstance(prediction, tuple):
        return [x == y for x, y in zip(prediction, other, strict=True)]
    return [prediction == other]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model judged on a data set.

    Args:
        predictions: one per sample, N of them.
        statistics: shape (N, K).
        formulas: metrics by name, the task's own first.
        alike: see `Judge`.
    """

    predictions: Sequence[Any]
    statistics: Tensor
    formulas: Mapping[str, Formula]
    alike: Callable[[Any, Any], Sequence[bool]] = same

    @property
    def metric(self) -> float:
        """The task's metric in points."""
        return next(iter(self.metrics.values()))

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric in points."""
        statistics, once = self.statistics.double(), torch.ones(1, self.count, dtype=torch.float64)
        return {name: float(formula(statistics, once)) for name, formula in self.formulas.items()}

    @property
    def count(self) -> int:
        return len(self.statistics)


def evaluate(
    forward: Callable[..., object],
    batches: Iterable[object],
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
    predictions: list[object] = []
    statistics: list[Tensor] = []
    with torch.no_grad():
        for batch in batches:
            predicted = judge.predict(forward(*judge.inputs(batch)), batch)
            predictions.extend(predicted)
            statistics.append(judge.statistics(predicted, batch))
            if progress is not None:
                progress(len(predicted))
            if limit is not None and len(predictions) >= limit:
                break
    return Evaluation(
        predictions=predictions[:limit],
        statistics=torch.cat(statistics)[:limit],
        formulas=judge.formulas,
        alike=judge.alike,
    )


def agreement(a: Evaluation, b: Evaluation) -> float:
    """Share of what `a` decides that `b` decides as well, over the samples that both have seen; 1 where `a` decides nothing."""
    pairs = [alike for x, y in zip(a.predictions, b.predictions, strict=False) for alike in a.alike(x, y)]
    return float(sum(pairs) / len(pairs)) if pairs else 1.0


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference of two evaluations in points, with its intervals."""

    value: float
    ci95: tuple[float, float]
    ci99: tuple[float, float]
    count: int

    def contains_zero(self) -> bool:
        """Whether there may be no difference. At 99 %: a gate that one run in twenty fails by chance is soon ignored."""
        return self.ci99[0] <= 0.0 <= self.ci99[1]


def interval(evaluation: Evaluation, *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the bootstrap over samples of the task's metric, see `paired_difference`."""
    formula = next(iter(evaluation.formulas.values()))
    rows, counts = np.unique(evaluation.statistics.double().numpy(), axis=0, return_counts=True)
    statistics, rng = torch.from_numpy(rows), np.random.default_rng(seed)
    shares = counts / evaluation.count
    draws = [
        np.asarray(formula(statistics, torch.from_numpy(rng.multinomial(evaluation.count, shares, size=size)).double()))
        for size in np.diff(np.r_[0 : resamples : min(500, resamples), resamples])
    ]
    low, high = np.percentile(np.concatenate(draws), [2.5, 97.5])
    return float(low), float(high)


def paired_difference(
    a: Evaluation, b: Evaluation, metric: str | None = None, *, resamples: int = 2000, seed: int = 0
) -> Difference:
    """metric(a) - metric(b) with percentile intervals of the paired bootstrap over samples.

    Samples with equal statistics in both evaluations are interchangeable, so resampling counts of distinct rows is the same
    as resampling samples, and costs little: counts ~ Multinomial(n, shares).

    Args:
        metric: name of a formula that both have; None takes the task's own.

    Reference: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    metric = metric or next(iter(a.formulas))
    count, width = min(a.count, b.count), a.statistics.shape[1]
    both = torch.cat([a.statistics[:count], b.statistics[:count]], 1).double().numpy()
    rows, counts = np.unique(both, axis=0, return_counts=True)
    if np.array_equal(rows[:, :width], rows[:, width:]):  # an exact engine against the reference: nothing to resample
        return Difference(value=0.0, ci95=(0.0, 0.0), ci99=(0.0, 0.0), count=count)
    first, second = torch.from_numpy(rows[:, :width]), torch.from_numpy(rows[:, width:])

    def difference(drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        weights = torch.from_numpy(drawn).double()
        return np.asarray(a.formulas[metric](first, weights) - b.formulas[metric](second, weights))

    rng = np.random.default_rng(seed)
    draws = [
        difference(rng.multinomial(count, counts / count, size=size))
        for size in np.diff(np.r_[0 : resamples : min(500, resamples), resamples])
    ]
    lowest, low, high, highest = (float(x) for x in np.percentile(np.concatenate(draws), [0.5, 2.5, 97.5, 99.5]))
    value = float(difference(counts[None])[0])
    return Difference(value=value, ci95=(low, high), ci99=(lowest, highest), count=count)
