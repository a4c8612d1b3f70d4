"""Bias correction: rounding a weight shifts a layer's mean output; its bias takes the shift back.

    b <- b + E[conv(x, w)] - E[conv(x, w_q)],   per output channel, over the calibration batches

It matters where large weights cancel on inputs that hardly vary, as in depthwise layers behind a saturated ReLU6: there a
rounding error is a constant, and a constant is what a bias can hold.

Reference: Nagel et al. 2019, arXiv:1906.04721, section 4.2; Nagel et al. 2021, arXiv:2106.08295, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from qat.quantization.fake_quantize import StoredFakeQuantize
from qat.quantization.graph.nodes import GraphNode, argument, fx_value
from qat.quantization.kernel_table import Role
from qat.quantization.prepared import PreparedModel
from qat.ranks import sum_over_ranks, world_size


class BiasCorrection(fx.Interpreter):
    """Runs a prepared network in float and measures, layer by layer, the shift that rounding its weight would make."""

    def __init__(self, prepared: PreparedModel) -> None:
        super().__init__(prepared.network)
        self.prepared = prepared
        self.shifts: dict[str, Tensor] = {}
        self.batches = 0

    def observe(self, *inputs: Tensor) -> None:
        """Take one more batch into account; no gradient."""
        self.batches += 1
        self.run(*inputs)

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        bias = _own_bias(self.prepared, n)
        if bias is not None:
            (x, weight, *rest), kwargs = self.fetch_args_kwargs_from_env(n)
            quantizer = self.prepared.network.get_submodule(str(n.args[1].target))  # type: ignore[union-attr]
            assert isinstance(quantizer, StoredFakeQuantize)
            integers, scale = quantizer.quantize(weight)
            rounded = integers.to(weight.dtype) * scale.reshape(-1, *([1] * (weight.dim() - 1)))
            shift = value - n.target(x, rounded, *rest, **kwargs)  # type: ignore[operator]
            dims = [i for i in range(shift.dim()) if i != (shift.dim() - 1 if weight.dim() == 2 else 1)]
            self.shifts[bias.target] = self.shifts.get(bias.target, 0) + shift.mean(dims)
        return value

    def apply_(self) -> None:
        """Add the mean shift over the batches of all ranks to every bias."""
        with torch.no_grad():
            for name, shift in self.shifts.items():
                self.prepared.network.get_parameter(name).add_(sum_over_ranks(shift) / (self.batches * world_size()))


def _own_bias(prepared: PreparedModel, node: GraphNode) -> GraphNode | None:
    """The bias parameter of an integer layer that no other layer shares; None where there is none."""
    kernel = prepared.placement.kernels.get(node.name)
    if kernel is None or kernel.role is not Role.COMPUTE:
        return None
    bias: GraphNode = argument(node, 2, "bias")
    own = bias is not None and bias.op == "get_attr" and len(bias.users) == 1
    return bias if own and isinstance(fx_value(prepared.network, bias), torch.nn.Parameter) else None
