"""Fake quantization: the formula bit for bit, its gradient, and its state."""

from __future__ import annotations

import io
import math

import pytest
import torch
from torch import Tensor

from qat.errors import CalibrationError
from qat.quantization.fake_quantize import FakeQuantize, WeightFakeQuantize
from qat.quantization.layouts import ChannelsLast, layouts_of
from qat.quantization.observer import MinMaxObserver, make_observer
from qat.quantization.qparams import weight_scale


def observed(x: Tensor) -> FakeQuantize:
    """A frozen fake_quantize whose range is that of `x`."""
    module = FakeQuantize(MinMaxObserver())
    module(x)
    module.observing = False
    return module


def plain(x: Tensor, module: FakeQuantize) -> Tensor:
    """The formula in plain tensors."""
    q = (torch.round(x * (1.0 / module.scale)) + module.zero_point).clamp(0, 255)
    return (q - module.zero_point) * module.scale


@pytest.mark.parametrize("seed", range(4))
def test_fake_quantize_equals_the_formula_bit_for_bit(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    module = observed(torch.randn(1000, generator=generator) * 10.0 ** (2 * seed - 3))
    x = torch.randn(50_000, generator=generator) * 1.5 * 10.0 ** (2 * seed - 3)
    assert torch.equal(module(x), plain(x, module))


def test_fake_quantize_rounds_ties_to_even() -> None:
    module = observed(torch.tensor([0.0, 255.0]))
    assert module(torch.tensor([0.5, 1.5, 2.5, 3.5])).tolist() == [0.0, 2.0, 2.0, 4.0]


def test_fake_quantize_is_idempotent() -> None:
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    module = observed(x)
    assert torch.equal(module(module(x)), module(x))


def test_fake_quantize_gradient_is_1_inside_and_0_outside() -> None:
    module = observed(torch.tensor([-1.0, 3.0]))
    low, high = (float((q - module.zero_point) * module.scale) for q in (0, 255))
    half = float(module.scale) / 2
    x = torch.tensor([low - 1, low - 1.01 * half, low - 0.9 * half, 0.0, high + 0.9 * half, high + 1.01 * half, high + 1])
    x.requires_grad_()
    module(x).backward(torch.full_like(x, 3.0))
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 3.0, 3.0, 3.0, 0.0, 0.0]


@pytest.mark.parametrize("seed", range(3))
def test_fake_quantize_equals_pytorchs_kernel_forwards_and_backwards(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    module = observed(torch.randn(1000, generator=generator))
    data = torch.randn(4, 7, 50, 50, generator=generator) * 2
    upstream = torch.randn(data.shape, generator=generator)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        ours, theirs = (data.to(memory_format=layout).clone().requires_grad_() for _ in range(2))
        a = module(ours)
        b = torch.fake_quantize_per_tensor_affine(theirs, module.scale, module.zero_point, 0, 255)
        a.backward(upstream)
        b.backward(upstream)  # type: ignore[no-untyped-call]
        assert torch.equal(a, b)
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)
        results.append(a.detach())
    assert torch.equal(*results)


def test_fake_quantize_switches_do_what_they_say() -> None:
    module = FakeQuantize(MinMaxObserver())
    x = torch.tensor([-1.0, 0.337, 2.0])
    module.quantizing = False
    assert torch.equal(module(x), x)
    assert float(module.scale) == pytest.approx(3 / 255, rel=2**-15)
    module.observing, module.quantizing = False, True
    frozen = module.scale.clone()
    assert not torch.equal(module(x * 10), x * 10)
    assert torch.equal(module.scale, frozen)


def test_fake_quantize_observes_without_gradient() -> None:
    module = FakeQuantize(make_observer("moving_average"))
    x = torch.randn(5, requires_grad=True)
    module(x).sum().backward()
    assert all(not value.requires_grad for value in module.state_dict().values())


@pytest.mark.parametrize("observer", ["minmax", "moving_average", "histogram"])
def test_fake_quantize_state_keeps_its_shapes(observer: str) -> None:
    fresh = FakeQuantize(make_observer(observer))
    shapes = {key: value.shape for key, value in fresh.state_dict().items()}
    fresh(torch.randn(100))
    fresh.observing = False
    assert {key: value.shape for key, value in fresh.state_dict().items()} == shapes


@pytest.mark.parametrize("observing", [True, False])
@pytest.mark.parametrize("quantizing", [True, False])
def test_fake_quantize_switches_survive_a_safe_checkpoint(observing: bool, quantizing: bool) -> None:
    module = FakeQuantize(make_observer("histogram"))
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    module(x)
    module.observing, module.quantizing = observing, quantizing
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = FakeQuantize(make_observer("histogram"))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert (other.observing, other.quantizing) == (observing, quantizing)
    assert torch.equal(other(x * 0.9), module(x * 0.9))


def test_fake_quantize_qparams_are_its_grid() -> None:
    module = observed(torch.tensor([-1.0, 2.0]))
    grid = module.qparams()
    assert (grid.scale, grid.zero_point) == (float(module.scale), int(module.zero_point))


def test_fake_quantize_has_no_qparams_before_the_first_batch() -> None:
    with pytest.raises(CalibrationError, match="calibrate"):
        FakeQuantize(MinMaxObserver()).qparams()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_fake_quantize_has_no_qparams_when_the_range_is_not_finite(bad: float) -> None:
    module = FakeQuantize(MinMaxObserver())
    module.quantizing = False
    module(torch.tensor([1.0, bad]))
    with pytest.raises(CalibrationError):
        module.qparams()


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("shape", [(16, 1, 3, 3), (8, 4, 5), (33, 65), (4, 8, 1, 1)])
def test_weight_fake_quantize_simulates_its_integers_bit_for_bit(shape: tuple[int, ...], bound: bool) -> None:
    module = WeightFakeQuantize(layouts_of(torch.empty(shape)) if bound else ())
    for seed in range(5):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed - 2)
        integers, scale = module.quantize(weight)
        expected = integers.float() * scale.reshape(-1, *([1] * (weight.dim() - 1)))
        assert torch.equal(module(weight), expected)


def test_weight_fake_quantize_follows_the_live_weight() -> None:
    module = WeightFakeQuantize()
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    module(weight)
    assert torch.equal(module.quantize(weight * 7)[1], weight_scale(weight * 7))
    assert not module.state_dict(keep_vars=True).keys() - {"_extra_state"}


def test_weight_fake_quantize_passes_the_gradient_through() -> None:
    module = WeightFakeQuantize([ChannelsLast()])
    weight = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    factor = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    (module(weight) * factor).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, factor)


def test_weight_fake_quantize_switch_survives_a_checkpoint() -> None:
    module, other = WeightFakeQuantize(), WeightFakeQuantize()
    module.quantizing = False
    other.load_state_dict(module.state_dict())
    weight = torch.randn(3, 3)
    assert torch.equal(other(weight), weight)
