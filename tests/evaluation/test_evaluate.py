from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from qat.evaluation.evaluate import (
    Difference,
    Evaluation,
    Formula,
    OfMean,
    agreement,
    evaluate,
    mean_score,
    paired_difference,
    same,
)
from qat.evaluation.metrics import entity_f1, matthews
from tests.evaluations import evaluation


class Nearest:
    """Decides for the larger of two numbers; 100 points when it is the target."""

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        x: Tensor = batch[0]
        return (x,)

    @property
    def formulas(self) -> Mapping[str, Formula]:
        return {"score": mean_score}

    def predict(self, outputs: Any, batch: Any) -> Sequence[Any]:
        decided: list[int] = outputs.argmax(-1).tolist()
        return decided

    def statistics(self, predictions: Sequence[Any], batch: Any) -> Tensor:
        right: Tensor = torch.tensor(predictions) == batch[1]
        return 100.0 * right.float().unsqueeze(1)

    def alike(self, prediction: Any, other: Any) -> Sequence[bool]:
        return same(prediction, other)


def _batches(sizes: tuple[int, ...] = (4, 4, 3)) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(size, 2), torch.randint(2, (size,))) for size in sizes]


def _scores(seed: int, count: int, share: float) -> npt.NDArray[np.float64]:
    return np.where(np.random.default_rng(seed).random(count) < share, 100.0, 0.0)


def test_evaluate_is_accuracy_over_all_samples() -> None:
    batches = _batches()
    found = evaluate(lambda x: x, batches, Nearest())
    x, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert found.count == 11
    assert found.predictions == x.argmax(1).tolist()
    assert found.metric == pytest.approx(100.0 * int((x.argmax(1) == targets).sum()) / 11)


def test_evaluate_needs_no_gradient() -> None:
    weight = torch.ones(2, requires_grad=True)
    seen: list[bool] = []

    def forward(x: Tensor) -> Tensor:
        y = x * weight
        seen.append(y.requires_grad)
        return y

    evaluate(forward, _batches(), Nearest())
    assert seen == [False] * 3


def test_evaluate_stops_at_the_limit_and_asks_for_no_further_batch() -> None:
    asked: list[int] = []

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for index, batch in enumerate(_batches()):
            asked.append(index)
            yield batch

    torch.manual_seed(1)
    whole = evaluate(lambda x: x, _batches(), Nearest())
    torch.manual_seed(1)
    limited = evaluate(lambda x: x, stream(), Nearest(), limit=6)
    assert limited.count == 6
    assert limited.predictions == whole.predictions[:6]
    assert torch.equal(limited.statistics, whole.statistics[:6])
    assert asked == [0, 1]


def test_evaluate_reports_progress_in_samples() -> None:
    counts: list[int] = []
    evaluate(lambda x: x, _batches((4, 4, 3)), Nearest(), progress=counts.append)
    assert counts == [4, 4, 3]


def test_agreement_is_the_share_of_equal_decisions() -> None:
    a, b = [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 0, 0, 0]
    assert agreement(evaluation([0.0] * 8, a), evaluation([0.0] * 8, b)) == 5 / 8


def test_agreement_counts_the_samples_that_both_have_seen() -> None:
    assert agreement(evaluation([0.0] * 2, [1, 2]), evaluation([0.0] * 4, [1, 0, 7, 8])) == 1 / 2


def test_paired_difference_is_the_difference_of_the_means() -> None:
    a, b = evaluation(list(_scores(0, 300, 0.8))), evaluation(list(_scores(1, 300, 0.7)))
    found = paired_difference(a, b)
    assert found.value == pytest.approx(a.metric - b.metric)
    assert found.count == 300
    assert found.ci95[0] <= found.value <= found.ci95[1]
    assert paired_difference(b, a).value == -found.value


def test_paired_difference_takes_the_samples_that_both_have_seen() -> None:
    a, b = evaluation([100.0, 0.0, 100.0]), evaluation([0.0, 0.0, 0.0, 100.0, 100.0])
    assert paired_difference(a, b).value == pytest.approx(200.0 / 3)
    assert paired_difference(a, b).count == 3


def test_identical_evaluations_differ_by_nothing() -> None:
    a = evaluation(list(_scores(0, 100, 0.5)))
    found = paired_difference(a, a)
    assert (found.value, found.ci95) == (0.0, (0.0, 0.0))
    assert found.contains_zero()


@pytest.mark.parametrize(
    ("low", "high", "contains"), [(-1.0, 1.0, True), (0.0, 1.0, True), (0.1, 1.0, False), (-2.0, -1.0, False)]
)
def test_difference_knows_whether_zero_is_possible(low: float, high: float, contains: bool) -> None:
    assert Difference(value=(low + high) / 2, ci95=(low, high), ci99=(low, high), count=1).contains_zero() is contains


def test_paired_difference_equals_the_bootstrap_over_samples() -> None:
    """Reference: resample whole samples. The 2.5 % quantile of B means has a standard error of about
    sqrt(0.025 * 0.975 / B) / 0.0584 standard deviations of the mean."""
    count, resamples = 400, 4000
    a, b = _scores(0, count, 0.8), _scores(1, count, 0.7)
    found = paired_difference(evaluation(list(a)), evaluation(list(b)), resamples=resamples)
    chosen = np.random.default_rng(5).integers(0, count, (resamples, count))
    means = (a - b)[chosen].mean(1)
    error = np.sqrt(0.025 * 0.975 / resamples) / 0.0584 * means.std()
    assert found.ci95 == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=5 * np.sqrt(2) * error)


def test_paired_difference_covers_the_truth_in_95_of_100_experiments() -> None:
    """a is right on 80 %, b on 75 %, independently: the true difference is 5 points."""
    experiments = 200
    covered = 0
    for seed in range(experiments):
        a, b = _scores(2 * seed, 300, 0.8), _scores(2 * seed + 1, 300, 0.75)
        low, high = paired_difference(evaluation(list(a)), evaluation(list(b)), resamples=1000).ci95
        covered += low <= 5.0 <= high
    five_sigma = 5 * np.sqrt(0.95 * 0.05 / experiments)
    assert covered / experiments == pytest.approx(0.95, abs=five_sigma)


def test_metric_is_exact_for_many_samples() -> None:
    """A float32 mean of 0 and 100 would lose digits."""
    scores = torch.tensor([100.0, 0.0, 0.0]).repeat(400_000)
    assert evaluation(scores.tolist(), [0] * len(scores)).metric == pytest.approx(100 / 3, abs=1e-9)


def test_agreement_counts_every_decision_of_a_sample_with_several() -> None:
    a = Evaluation(predictions=[(1, 2, 3), (4,)], statistics=torch.zeros(2, 1), formulas={"score": mean_score})
    b = Evaluation(predictions=[(1, 2, 0), (4,)], statistics=torch.zeros(2, 1), formulas={"score": mean_score})
    assert agreement(a, b) == 3 / 4


@pytest.mark.parametrize(("formula", "width"), [(entity_f1, 3), (matthews, 4)])
def test_paired_difference_of_a_metric_that_is_no_mean_equals_the_bootstrap_over_samples(
    formula: Callable[[Tensor], Tensor], width: int
) -> None:
    """Reference: resample whole samples, sum their statistics, apply the formula."""
    rng = np.random.default_rng(0)
    count, resamples = 300, 4000
    a, b = (torch.from_numpy(np.sort(rng.integers(0, 4, (count, width)))).float() for _ in range(2))
    both = [Evaluation(predictions=list(range(count)), statistics=s, formulas={"metric": OfMean(formula)}) for s in (a, b)]
    found = paired_difference(both[0], both[1], resamples=resamples)
    chosen = np.random.default_rng(7).integers(0, count, (resamples, count))
    expected = (formula(a.double()[chosen].mean(1)) - formula(b.double()[chosen].mean(1))).numpy()
    assert found.value == pytest.approx(both[0].metric - both[1].metric)
    error = np.sqrt(0.025 * 0.975 / resamples) / 0.0584 * expected.std()
    assert found.ci95 == pytest.approx(tuple(np.percentile(expected, [2.5, 97.5])), abs=5 * np.sqrt(2) * error)


def test_agreement_asks_the_judge_what_is_alike_and_a_model_that_decides_nothing_agrees() -> None:
    def found(prediction: Any, other: Any) -> list[bool]:
        return [thing in other for thing in prediction]

    predictions: list[list[set[int]]] = [[{1, 2}, {3}], [{1, 2, 5, 6}, {4}], [set(), set()]]
    a, b, none = (
        Evaluation(predictions=d, statistics=torch.zeros(2, 1), formulas={"score": mean_score}, alike=found)
        for d in predictions
    )
    assert agreement(a, b) == 2 / 3
    assert agreement(b, a) == 2 / 5
    assert agreement(none, a) == 1.0


def test_paired_difference_of_a_named_metric() -> None:
    formulas = {"score": mean_score, "other": OfMean(lambda means: means[..., 1])}
    a, b = (
        Evaluation(predictions=[0, 1], statistics=torch.tensor(rows), formulas=formulas)
        for rows in ([[1.0, 5.0], [2.0, 7.0]], [[1.0, 2.0], [1.0, 2.0]])
    )
    assert paired_difference(a, b).value == 0.5
    assert paired_difference(a, b, "other").value == 4.0
