"""Range estimators against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from qat.errors import ConfigError
from qat.quantization.observer import (
    OBSERVERS,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageObserver,
    Observer,
    make_observer,
)
from qat.quantization.qparams import affine_qparams


def batches(count: int = 5, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(7, 11, generator=generator) * (i + 1) for i in range(count)]


def quantization_error(x: Tensor, low: Tensor, high: Tensor) -> float:
    """Mean squared error of the grid over [low, high], in plain tensors."""
    scale, zero_point = affine_qparams(low, high)
    rounded = (torch.round(x / scale) + zero_point).clamp(0, 255)
    return float(((rounded - zero_point) * scale - x).double().square().mean())


@pytest.mark.parametrize("name", OBSERVERS)
def test_observer_has_an_empty_range_before_the_first_batch(name: str) -> None:
    observer = make_observer(name)
    low, high = observer.range()
    assert not bool(observer.seen())
    assert float(low) > float(high)


@pytest.mark.parametrize("name", OBSERVERS)
def test_observer_shapes_do_not_change(name: str) -> None:
    observer = make_observer(name)
    before = {key: value.shape for key, value in observer.state_dict().items()}
    for x in batches():
        observer.observe(x)
    assert {key: value.shape for key, value in observer.state_dict().items()} == before


@pytest.mark.parametrize("name", OBSERVERS)
def test_observer_resumes_from_its_state(name: str) -> None:
    whole, first, second = make_observer(name), make_observer(name), make_observer(name)
    data = batches()
    for x in data:
        whole.observe(x)
    for x in data[:2]:
        first.observe(x)
    second.load_state_dict(first.state_dict())
    for x in data[2:]:
        second.observe(x)
    assert [float(v) for v in second.range()] == [float(v) for v in whole.range()]


@pytest.mark.parametrize("name", OBSERVERS)
def test_observer_takes_the_first_batch_whole_up_to_its_shrinking(name: str) -> None:
    observer = make_observer(name)
    x = torch.linspace(-1.0, 3.0, 1001)
    observer.observe(x)
    low, high = observer.range()
    assert -1.0 <= float(low) <= -0.95
    assert 2.9 <= float(high) <= 3.0


@pytest.mark.parametrize("name", OBSERVERS)
def test_observer_takes_a_constant_tensor(name: str) -> None:
    for value in (0.0, 2.5, -1.5):
        observer = make_observer(name)
        for _ in range(3):
            observer.observe(torch.full((4, 4), value))
        low, high = observer.range()
        assert min(value, 0.0) <= float(low) <= float(high) <= max(value, 0.0)
        scale, zero_point = affine_qparams(low, high)
        assert float((torch.tensor(value) / scale).round().add(zero_point).clamp(0, 255)) in (0.0, 255.0)


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_observer_shows_a_value_that_is_not_finite(name: str, bad: float) -> None:
    observer = make_observer(name)
    observer.observe(torch.ones(3))
    observer.observe(torch.tensor([1.0, bad]))
    assert not math.isfinite(float(observer.low + observer.high))


def test_min_max_observer_is_the_running_minimum_and_maximum() -> None:
    observer = MinMaxObserver()
    for x in batches():
        observer.observe(x)
    everything = torch.cat(batches())
    assert [float(v) for v in observer.range()] == [float(everything.min()), float(everything.max())]


def test_moving_average_observer_matches_the_formula() -> None:
    observer = MovingAverageObserver(momentum=0.1)
    low = high = math.nan
    for i, x in enumerate(batches(20)):
        observer.observe(x)
        bottom, top = float(x.min()), float(x.max())
        low, high = (bottom, top) if i == 0 else (low + 0.1 * (bottom - low), high + 0.1 * (top - high))
    assert float(observer.range()[0]) == pytest.approx(low, rel=1e-5)
    assert float(observer.range()[1]) == pytest.approx(high, rel=1e-5)


@pytest.mark.parametrize("momentum", [0.0, -0.1, 1.5, math.nan])
def test_moving_average_observer_refuses_a_momentum_outside_0_and_1(momentum: float) -> None:
    with pytest.raises(ConfigError, match="momentum"):
        MovingAverageObserver(momentum=momentum)


def test_histogram_observer_counts_every_value_once_as_its_range_grows() -> None:
    observer = HistogramObserver()
    total = 0
    for i, x in enumerate(batches(12)):
        observer.observe(x + 10 * (-1) ** i * i)
        total += x.numel()
        assert float(observer.counts.sum()) == total


def test_histogram_observer_counts_match_torch_histc_on_one_batch() -> None:
    observer = HistogramObserver(bins=256)
    x = torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    observer.observe(x)
    expected = torch.histc(x, bins=256, min=float(x.min()), max=float(x.max()))
    assert float((observer.counts - expected).abs().sum()) <= 4  # values on a bin's edge


def test_histogram_observer_moves_old_counts_to_where_they_belong() -> None:
    observer = HistogramObserver(bins=1000)
    observer.observe(torch.linspace(0, 1, 1001))
    observer.observe(torch.tensor([-9.0, 1.0]))
    old = observer.counts[890:]  # [-9, 1] in bins of 0.01: everything of the first batch lies above -0.1
    assert float(old.sum()) == 1002
    assert float(observer.counts[:890].sum()) == 1


@pytest.mark.parametrize("power", [1, 3, 5])
def test_histogram_range_loses_no_more_than_min_max(power: int) -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(power)) ** power
    observer, plain = HistogramObserver(), MinMaxObserver()
    for part in x.chunk(4):
        observer.observe(part)
        plain.observe(part)
    assert quantization_error(x, *observer.range()) <= quantization_error(x, *plain.range()) * (1 + 1e-3)


def test_histogram_range_is_better_on_heavy_tails() -> None:
    x = torch.randn(500_000, generator=torch.Generator().manual_seed(0))
    x[:2] = torch.tensor([-10.0, 10.0])  # two outliers
    observer, plain = HistogramObserver(), MinMaxObserver()
    observer.observe(x)
    plain.observe(x)
    assert quantization_error(x, *observer.range()) < 0.7 * quantization_error(x, *plain.range())


def test_histogram_range_is_the_best_of_its_candidates() -> None:
    x = torch.randn(5_000, generator=torch.Generator().manual_seed(1)) ** 3
    observer = HistogramObserver(bins=4096, candidates=20)
    observer.observe(x)
    found = quantization_error(x, *observer.range())
    errors = [quantization_error(x, x.min() * s, x.max() * s) for s in torch.linspace(1.0, 0.2, 20)]
    assert found <= min(errors) * 1.02  # bin centres stand for the values in them


@pytest.mark.parametrize(("bins", "candidates"), [(255, 80), (2048, 0)])
def test_histogram_observer_refuses_too_few(bins: int, candidates: int) -> None:
    with pytest.raises(ConfigError, match="histogram"):
        HistogramObserver(bins=bins, candidates=candidates)


def test_make_observer_builds_a_fresh_one_by_name() -> None:
    assert OBSERVERS
    for name in OBSERVERS:
        first, second = make_observer(name), make_observer(name)
        assert isinstance(first, Observer)
        assert first is not second


def test_make_observer_names_what_is_near() -> None:
    with pytest.raises(ConfigError, match=r"'histgram'.*Did you mean 'histogram'.*moving_average"):
        make_observer("histgram")
