"""Grids: short scales, exact dequantization, zero on every grid, the pair bound."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from qat.errors import QParamsError
from qat.quantization.layouts import ChannelsLast
from qat.quantization.qparams import (
    MIN_SCALE,
    QParams,
    affine_qparams,
    quantize_weight,
    short_scale,
    weight_scale,
)


def random_scales(count: int = 4096, seed: int = 0) -> Tensor:
    """Positive float32 over thirty orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    return torch.exp(torch.empty(count).uniform_(-34, 34, generator=generator))


def significant_bits(value: float) -> int:
    """Bits between the first and the last 1 of a float's significand."""
    significand = int(math.ldexp(math.frexp(value)[0], 53))
    return len(bin(significand).removeprefix("0b").rstrip("0"))


def test_short_scale_has_at_most_16_significant_bits() -> None:
    assert max(significant_bits(float(s)) for s in short_scale(random_scales())) <= 16


def test_short_scale_rounds_up_by_less_than_2_to_the_minus_15() -> None:
    scales = random_scales().double()
    growth = short_scale(scales.float()).double() / scales.float().double() - 1
    assert bool((growth >= 0).all())
    assert float(growth.max()) < 2**-15


def test_short_scale_is_idempotent() -> None:
    short = short_scale(random_scales())
    assert torch.equal(short_scale(short), short)


def test_short_scale_carries_into_the_exponent() -> None:
    below = torch.tensor(2.0).nextafter(torch.tensor(0.0))
    assert float(short_scale(below)) == 2.0


def test_dequantized_values_are_exact_in_float32() -> None:
    scales = short_scale(random_scales(512))
    integers = torch.arange(-255, 256)
    product = integers.float()[:, None] * scales[None]
    assert torch.equal(product.double(), integers.double()[:, None] * scales.double()[None])


@pytest.mark.parametrize("seed", range(3))
def test_affine_qparams_match_the_formula(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for low, high in torch.randn(200, 2, generator=generator).sort(1).values * 10.0 ** (seed - 1):
        scale, zero_point = affine_qparams(low, high)
        bottom, top = min(float(low), 0.0), max(float(high), 0.0)
        assert float(scale) == pytest.approx((top - bottom) / 255, rel=2**-15)
        assert int(zero_point) == min(255, max(0, round(-bottom / float(scale))))
        QParams(scale=float(scale), zero_point=int(zero_point))  # legal


def test_affine_qparams_cover_the_range_within_half_a_step() -> None:
    generator = torch.Generator().manual_seed(0)
    for low, high in torch.randn(200, 2, generator=generator).sort(1).values:
        scale, zero_point = affine_qparams(low, high)
        assert float((0 - zero_point) * scale) <= min(float(low), 0.0) + 0.5 * float(scale) * (1 + 1e-6)
        assert float((255 - zero_point) * scale) >= max(float(high), 0.0) - 0.5 * float(scale) * (1 + 1e-6)


def test_affine_qparams_hold_zero_exactly() -> None:
    for low, high in ((-3.0, -1.0), (-1.0, 0.0), (0.0, 5.0), (2.0, 7.0), (-1e-3, 1e3)):
        scale, zero_point = affine_qparams(torch.tensor(low), torch.tensor(high))
        zero = torch.fake_quantize_per_tensor_affine(torch.zeros(1), scale, zero_point, 0, 255)
        assert float(zero) == 0.0


def test_affine_qparams_of_a_range_from_zero_have_zero_point_zero() -> None:
    for high in (1e-6, 0.3, 6.0, 1e6):
        assert int(affine_qparams(torch.tensor(0.0), torch.tensor(high))[1]) == 0


def test_affine_qparams_of_a_constant_zero_tensor_are_legal() -> None:
    scale, zero_point = affine_qparams(torch.tensor(0.0), torch.tensor(0.0))
    assert float(scale) >= MIN_SCALE > 0
    assert int(zero_point) == 0


@pytest.mark.parametrize(
    ("scale", "zero_point"),
    [(0.0, 0), (-1.0, 0), (math.nan, 0), (math.inf, 0), (0.5, -1), (0.5, 256), (0.5, 1.5), (0.1, 0), (1 + 2**-20, 0)],
)
def test_qparams_refuse_what_is_no_grid(scale: float, zero_point: Any) -> None:
    with pytest.raises(QParamsError):
        QParams(scale=scale, zero_point=zero_point)


def adversarial_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    one_spike = torch.full((4, 1, 3, 3), 1e-3)
    one_spike[:, 0, 1, 1] = 7.0
    return {
        "normal": torch.randn(64, 9, generator=generator),
        "heavy tails": torch.randn(64, 25, generator=generator) ** 7,
        "constant": torch.full((8, 9), -0.3),
        "one spike": one_spike,
        "two equal": torch.tensor([[5.0, -5.0, 0.0]]),
        "just above half": torch.tensor([[127.0, 64.5, 63.5], [1.0, 1.0 + 2**-20, 1.0]]),
        "zero": torch.zeros(3, 5),
        "tiny": torch.randn(16, 9, generator=generator) * 1e-30,
        "one weight": torch.randn(6, 1, 1, 1, generator=generator),
    }


def largest_sum(quantized: Tensor) -> int:
    """By the definition, neighbour by neighbour: what two products of one sign add up to, divided by 255."""
    rows: list[list[int]] = [row + [0] * (len(row) % 2) for row in quantized.movedim(1, -1).flatten(1).tolist()]
    pairs = [(a, b) for row in rows for a, b in zip(row[0::2], row[1::2], strict=True)]
    return max((max(a, 0) + max(b, 0) for a, b in [*pairs, *((-a, -b) for a, b in pairs)]), default=0)


@pytest.mark.parametrize("name", adversarial_weights())
def test_bound_keeps_neighbours_of_one_sign_at_128(name: str) -> None:
    weight = adversarial_weights()[name]
    quantized = quantize_weight(weight, weight_scale(weight, [ChannelsLast()]))
    assert largest_sum(quantized) <= 128


def test_bound_holds_for_many_random_channels_and_wastes_nothing() -> None:
    weight = torch.randn(20_000, 9, generator=torch.Generator().manual_seed(1))
    quantized = quantize_weight(weight, weight_scale(weight, [ChannelsLast()])).long()
    sums = torch.stack([(quantized[:, i] + quantized[:, i + 1]).abs() for i in range(0, 8, 2)]).amax(0)
    assert int(sums.max()) == 128
    assert 255 * int(sums.max()) < 2**15
    full = quantized.abs().amax(1) == 127
    assert float(((sums >= 127) | full).float().mean()) == 1.0  # either bound is reached
    assert float(full.float().mean()) > 0.3  # these channels lose nothing


def test_without_the_bound_two_weights_exceed_16_bits() -> None:
    weight = torch.tensor([[1.0, 1.0]])
    assert 255 * largest_sum(quantize_weight(weight, weight_scale(weight))) >= 2**15


def test_bound_is_looser_than_that_of_the_two_largest_weights() -> None:
    """Neighbours of opposite sign, and large weights that are no neighbours, keep the whole range."""
    for row in ([1.0, -1.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]):
        weight = torch.tensor([row])
        assert torch.equal(weight_scale(weight, [ChannelsLast()]), weight_scale(weight))


@pytest.mark.parametrize("bound", [False, True])
def test_weight_scale_matches_the_formula(bound: bool) -> None:
    weight = torch.randn(32, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    scales = weight_scale(weight, [ChannelsLast()] if bound else [])
    for channel, scale in zip(weight, scales, strict=True):
        expected = max(abs(float(w)) for w in channel.flatten()) / 127
        if bound:
            row = channel.permute(1, 2, 0).flatten().tolist()
            pairs = zip(row[0::2], row[1::2], strict=True)
            expected = max(expected, *(abs(a + b) / 127.99 for a, b in pairs if a * b > 0))
        assert float(scale) == pytest.approx(expected, rel=2**-15)
        assert significant_bits(float(scale)) <= 16


def test_weight_scale_uses_the_whole_symmetric_range() -> None:
    weight = torch.randn(50, 30, generator=torch.Generator().manual_seed(3))
    quantized = quantize_weight(weight, weight_scale(weight)).long()
    assert quantized.abs().amax(1).tolist() == [127] * 50
    assert int(quantized.min()) >= -127


def test_weight_scale_of_a_zero_channel_is_positive() -> None:
    scales = weight_scale(torch.zeros(3, 4))
    assert bool((scales >= MIN_SCALE).all())
    assert int(quantize_weight(torch.zeros(3, 4), scales).abs().max()) == 0


def test_quantize_weight_matches_the_formula() -> None:
    weight = torch.randn(16, 3, 5, generator=torch.Generator().manual_seed(4))
    scale = weight_scale(weight)
    expected = torch.round(weight * (1 / scale)[:, None, None]).clamp(-127, 127)
    got = quantize_weight(weight, scale)
    assert got.dtype == torch.int8
    assert torch.equal(got.float(), expected)
    error = (got.double() * scale.double()[:, None, None] - weight.double()).abs()
    assert bool((error <= 0.5001 * scale.double()[:, None, None]).all())
