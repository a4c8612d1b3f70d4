"""One node of a program as a program: what it computes there, given the same, it computes here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qat.quantization.engines import lower
from qat.quantization.program.alone import alone
from tests.quantization.networks import CASES, converted


@pytest.mark.parametrize("name", CASES)
def test_every_node_computes_alone_what_it_computes_in_the_program(name: str) -> None:
    program, x = converted(name, "x86"), CASES[name].inputs(3)
    values = {program.inputs[0].name: x, **lower(program, "reference").watch(x)[1]}
    grids, compared = program.grids(), 0
    for node in program.nodes:
        single = alone(program, node, values)
        if single is None or not isinstance(values[node.name], Tensor):
            continue
        part, given = single
        found = lower(part, "reference")(*given)
        expected = values[node.name]
        if node.name in grids:
            grid = grids[node.name]
            expected = (expected.float() - grid.zero_point) * grid.scale
        assert torch.equal(found, expected), node.name
        compared += 1
    assert compared > len(program.nodes) / 2
