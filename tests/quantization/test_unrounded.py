from __future__ import annotations

import torch
from torch import Tensor

from qat.quantization.graph.nodes import GraphNode, quantized_tensor
from qat.quantization.unrounded import Unrounded
from tests.quantization.networks import CASES, calibrated


def test_a_run_shows_every_tensor_in_float_and_changes_nothing() -> None:
    prepared, x = calibrated("conv").eval(), CASES["conv"].inputs(3)
    grids = prepared.grids()
    seen: dict[str, Tensor] = {}

    class Keep(Unrounded):
        def see(self, call: GraphNode, value: Tensor) -> None:
            seen[quantized_tensor(call).name] = value

    prepared.set_observing_(True)
    with torch.no_grad():
        output = Keep(prepared).run(x * 10)
        rounded = prepared(x * 10)
        prepared.set_quantizing_(False)
        assert torch.equal(output, prepared(x * 10))
    assert not torch.equal(output, rounded)
    assert seen.keys() == grids.keys() == dict(prepared.fake_quantizes()).keys()
    assert prepared.grids() == grids
