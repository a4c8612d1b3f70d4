"""Lowering: every op of the allowlist finds its function, constants are closed over, values are freed."""

from __future__ import annotations

import dataclasses
import weakref

import pytest
import torch

from qat.quantization.engines import ENGINES, lower
from qat.quantization.engines.steps import Step
from qat.quantization.program.ops import INT8_OPS, SIZE_OPS, TABLE_OPS
from qat.quantization.program.program import Ref, TensorRef
from tests.quantization.layers import LAYERS
from tests.quantization.op_programs import OPS, op_program
from tests.quantization.programs import Writer, bound

ENGINE = pytest.mark.parametrize("engine", ENGINES)


def test_the_zoo_holds_every_int8_op() -> None:
    programs = [op_program(name) for name in OPS] + [layer.program() for layer in LAYERS.values()]
    assert {node.op for program in programs for node in program.nodes} >= INT8_OPS - set(TABLE_OPS), "tables: test_encoders.py"


@ENGINE
def test_size_arithmetic_computes_on_numbers(engine: str) -> None:
    writer = Writer((3, None))
    n = writer.add("aten.sym_size.int", Ref("x0"), 2)
    half = writer.add("size.floordiv", n, 2)
    sums = writer.add("size.add", half, writer.add("size.mul", n, 3))
    rest = writer.add("size.sub", sums, writer.add("size.mod", n, 2))
    negative = writer.add("size.neg", writer.add("size.neg", rest))
    ratio = writer.add("size.truediv", n, 4)
    y = writer.add("aten.expand.default", writer.add("aten.full.default", [1, 1], ratio), [2, negative])
    assert {node.op for node in writer.nodes} >= SIZE_OPS - {"size.getitem"}
    got = lower(writer.finish(y), engine)(torch.zeros(2, 3, 7))
    assert torch.equal(got, torch.full((2, 7 // 2 + 21 - 1), 7 / 4))


@ENGINE
def test_tensors_and_keywords_are_closed_over(engine: str) -> None:
    writer = Writer((3,))
    writer.tensors["table"] = torch.tensor([1.0, 2.0, 3.0])
    y = writer.add("aten.add.Tensor", Ref("x0"), TensorRef("table"), alpha=2)
    z = writer.add("aten.where.self", writer.add("aten.gt.Tensor", y, TensorRef("table")), y, TensorRef("table"))
    x = torch.randn(4, 3) * 3
    table = writer.tensors["table"]
    expected = torch.maximum(x + 2 * table, table)
    assert torch.equal(lower(writer.finish(z), engine)(x), expected)


@ENGINE
def test_an_argument_may_stand_twice(engine: str) -> None:
    writer = Writer((3,), target="any")
    q = writer.quantized()
    y = writer.add("int8.dequantize", writer.add("int8.mul", q, q, grid=writer.nodes[0].grid))
    x = torch.tensor([[0.5, 1.0, -1.5]])
    torch.testing.assert_close(lower(writer.finish(y), engine)(x), x * x)


@ENGINE
def test_values_are_freed_after_their_last_use(engine: str) -> None:
    model = bound(op_program("cat", target="any"), engine)
    freed = [slot for step in model._steps for slot in step.dead]
    assert len(freed) == len(set(freed))
    assert {slot for step in model._steps for slot in step.sources} == set(freed)


def test_values_do_not_outlive_their_last_use() -> None:
    """In a chain of ops no more than an input and an output of one of them are alive at once."""
    writer = Writer((4,))
    y = Ref("x0")
    for _ in range(6):
        y = writer.add("aten.exp.default", writer.add("aten.neg.default", y))
    model = bound(writer.finish(y), "reference")
    made: list[weakref.ref[torch.Tensor]] = []
    alive = []

    def watched(step: Step) -> Step:
        def function(*args: torch.Tensor) -> torch.Tensor:
            alive.append(sum(reference() is not None for reference in made))
            value: torch.Tensor = step.function(*args)
            made.append(weakref.ref(value))
            return value

        return dataclasses.replace(step, function=function)

    model._steps = tuple(watched(step) for step in model._steps)
    model(torch.randn(2, 4))
    assert len(made) == 12
    assert max(alive) == 1
