"""Reuse of memory changes no value: not of a result, an input or an output."""

from __future__ import annotations

import pytest
import torch

from qat.quantization.engines import ENGINES, lower
from qat.quantization.engines.reuse import fits, read_once
from qat.quantization.program.program import Ref
from tests.quantization.programs import Writer

ENGINE = pytest.mark.parametrize("engine", ENGINES)


@ENGINE
def test_results_that_nothing_else_reads_are_overwritten_and_others_are_not(engine: str) -> None:
    """Residuals, broadcasting in both orders, an operand that is read twice, inputs and outputs: values as written down."""
    writer = Writer((4, 6), (6,))
    x, small = Ref("x0"), Ref("x1")
    norm = writer.add("aten.layer_norm.default", x, [6])
    twice = writer.add("aten.add.Tensor", norm, norm)
    grown = writer.add("aten.add.Tensor", writer.add("aten.tanh.default", small), twice)
    kept = writer.add("aten.gelu.default", grown, approximate="tanh")
    last = writer.add("aten.relu.default", writer.add("aten.add.Tensor", kept, x))
    model = lower(writer.finish((kept, last, twice)), engine)
    a, b = torch.randn(3, 4, 6), torch.randn(4, 6)
    before = a.clone(), b.clone()
    got = model(a, b)
    doubled = 2 * torch.nn.functional.layer_norm(a, [6])
    gelu = torch.nn.functional.gelu(b.tanh() + doubled, approximate="tanh")
    for found, expected in zip(got, (gelu, (gelu + a).relu(), doubled), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


def test_a_view_an_input_and_an_output_are_never_overwritten() -> None:
    writer = Writer((4, 6))
    view = writer.add("aten.transpose.int", Ref("x0"), 1, 2)
    writer.add("aten.gelu.default", view)
    once = writer.add("aten.tanh.default", view)
    output = writer.add("aten.relu.default", once)
    assert read_once(writer.finish(output)) == {once.name}


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [((2, 3), (2, 3), True), ((2, 3), (3,), True), ((2, 3), (2, 1), True), ((3,), (2, 3), False), ((2, 1), (2, 3), False)],
)
def test_a_result_fits_where_broadcasting_leaves_the_shape(x: tuple[int, ...], y: tuple[int, ...], expected: bool) -> None:
    assert fits(torch.zeros(x), torch.zeros(y)) is expected
    assert not fits(torch.zeros(x, dtype=torch.int64), torch.zeros(y))
