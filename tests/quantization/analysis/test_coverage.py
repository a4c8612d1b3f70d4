"""Coverage: multiply-accumulates by the formula, and a reason for every float op."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from qat.quantization.analysis.coverage import coverage
from qat.quantization.prepare import prepare
from tests.quantization.networks import CASES, Inline, calibrated


def test_coverage_counts_the_macs_of_convolutions_and_linear_layers() -> None:
    found = coverage(calibrated("conv"), (CASES["conv"].inputs(2),))
    stem = 2 * 8 * 9 * 7 * 3 * 3 * 3
    body = 2 * 8 * 5 * 4 * 8 * 3 * 3
    assert found.macs == stem + body + 2 * 5 * 8
    assert found.macs_int8 == 1.0
    assert found.float_ops == ()
    assert found.integer_ops == {"int8.adaptive_avg_pool2d": 1, "int8.conv2d": 2, "int8.linear": 1}


def test_coverage_counts_grouped_convolutions_per_group() -> None:
    found = coverage(calibrated("sequence"), (CASES["sequence"].inputs(1),))
    assert found.macs == 16 * 19 * 3 * 5 + 16 * 19 * 3 + 8 * 19 * 16 + 33 * 8 + 7 * 33


def test_coverage_counts_attention() -> None:
    """Two products of 5 x 5 positions by 8 features, for two heads."""
    found = coverage(calibrated("attention"), (CASES["attention"].inputs(1),))
    (attention,) = [op for op in found.float_ops if "attention" in op.op]
    assert attention.macs == 2 * 5 * 5 * (8 + 8)
    linears = 5 * 16 * 48 + 5 * 16 * 16 + 2 * 5 * 16 * 32 + 37 * 16
    assert found.macs == attention.macs + linears + 4 * 16 * 3 * 4 * 4
    assert found.macs_int8 == pytest.approx(1 - attention.macs / found.macs)


def test_coverage_gives_every_float_op_its_reason_and_layer() -> None:
    found = coverage(calibrated("attention"), (CASES["attention"].inputs(1),))
    assert found.float_ops
    assert all(op.reason for op in found.float_ops)
    assert {op.layer for op in found.float_ops if "layer_norm" in op.op} == {"norm1", "norm2"}


def test_coverage_falls_with_what_is_kept_float() -> None:
    case = CASES["conv"]
    prepared = prepare(case.model(), (case.inputs(),), keep_float=["body.0"])
    found = coverage(prepared, (case.inputs(2),))
    (kept,) = [op for op in found.float_ops if op.layer == "body.0"]
    assert kept.macs == 2 * 8 * 5 * 4 * 8 * 3 * 3
    assert found.macs_int8 == pytest.approx(1 - kept.macs / found.macs)


COUNTED: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], dict[str, nn.Module]]] = {
    "transposed convolution": (
        lambda m, x: m.up(m.a(x)),
        (2, 4, 6, 5),
        {"a": nn.Conv2d(4, 6, 1), "up": nn.ConvTranspose2d(6, 3, 4, 2, 1)},
    ),
    "grouped transposed": (
        lambda m, x: m.up(m.a(x)),
        (2, 4, 6, 5),
        {"a": nn.Conv2d(4, 6, 1), "up": nn.ConvTranspose2d(6, 4, 3, groups=2)},
    ),
    "einsum of two": (lambda m, x: torch.einsum("bld,bmd->blm", m.a(x), x), (2, 5, 8), {"a": nn.Linear(8, 8)}),
    "einsum over the middle": (lambda m, x: torch.einsum("bld,blk->bdk", m.a(x), x), (2, 5, 8), {"a": nn.Linear(8, 8)}),
    "product of activations": (lambda m, x: m.a(x) @ x.transpose(1, 2), (2, 5, 8), {"a": nn.Linear(8, 8)}),
}


@pytest.mark.parametrize("name", COUNTED)
def test_coverage_counts_what_pytorch_counts(name: str) -> None:
    function, shape, layers = COUNTED[name]
    model, x = Inline(function, **layers).eval(), torch.randn(shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    found = coverage(prepare(model, (x,)), (x,))
    assert 2 * found.macs == counter.get_total_flops()
    assert 0 < found.macs_int8 < 1


def test_coverage_leaves_out_what_is_computed_once() -> None:
    model = Inline(
        lambda m, x: torch.nn.functional.linear(x, m.a.weight @ m.b.weight), a=nn.Linear(8, 8), b=nn.Linear(8, 8)
    ).eval()
    found = coverage(prepare(model, (torch.randn(2, 8),)), (torch.randn(3, 8),))
    assert (found.macs, found.macs_int8) == (3 * 8 * 8, 1.0)
