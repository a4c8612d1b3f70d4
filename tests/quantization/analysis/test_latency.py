"""Where the time goes: every step counts once, and what is float is said to be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qat
from qat.quantization.analysis.latency import OpTime, described, latency, shares
from tests.quantization.networks import CASES, converted


def test_times_cover_every_step_and_name_what_is_float() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 8)).eval()
    x = torch.randn(16, 64)
    prepared = qat.prepare(model, x)
    qat.calibrate(prepared, [x])
    program = qat.convert(prepared)
    rows = latency(program, "fbgemm", [x], repeats=3)
    assert sum(row.share for row in rows) == pytest.approx(1)
    kinds = {row.op: (row.kind, row.count) for row in rows}
    assert kinds["int8.linear"] == ("integer", 2)
    assert kinds["aten.layer_norm.default"] == ("float", 1)
    assert kinds["aten.gelu.default"] == ("float", 1)
    assert all(row.ms > 0 for row in rows)
    assert rows == sorted(rows, key=lambda row: -row.ms)
    assert "layer_norm" in described(rows)


@pytest.mark.parametrize("engine", ["reference", "fbgemm"])
def test_a_pass_with_a_clock_takes_every_step_of_an_engine(engine: str) -> None:
    program = converted("conv")
    rows = latency(program, engine, [CASES["conv"].inputs(2)], repeats=1)
    assert shares(rows)["float"] == 0
    assert shares(rows)["conversion"] > 0
    assert sum(row.count for row in rows if row.op == "int8.conv2d") == sum(node.op == "int8.conv2d" for node in program.nodes)


def test_the_sentence_sums_the_kinds() -> None:
    rows = [
        OpTime(op="int8.linear", kind="integer", count=2, ms=7.0, share=0.7),
        OpTime(op="aten.softmax.int", kind="float", count=1, ms=2.0, share=0.2),
        OpTime(op="int8.quantize", kind="conversion", count=2, ms=1.0, share=0.1),
    ]
    assert described(rows) == "70% integer, 20% float (softmax 20%), 10% between the two"
    assert described(rows[:1]) == "70% integer, 0% float, 0% between the two"
