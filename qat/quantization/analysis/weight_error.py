"""What rounding costs a weight, and what keeping its sums within 16 bits adds to that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qat.quantization.fake_quantize import StoredFakeQuantize
from qat.quantization.graph.nodes import constant_value, layer_name
from qat.quantization.layouts import Layout
from qat.quantization.prepare import bounded_layouts
from qat.quantization.prepared import PreparedModel
from qat.quantization.qparams import quantize_weight, weight_scale
from qat.quantization.targets import Target


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """The weight SQNR of a layer in dB for two targets."""

    layer: str
    before: float
    after: float


def weight_sqnr(weight: Tensor, layouts: Sequence[Layout] = ()) -> float:
    """mean over output channels of 10 log10(sum w^2 / sum (w - q scale)^2) in dB; channels that are zero are left out.

    Args:
        weight: shape (C, ...), float32.
        layouts: see `weight_scale`.
    """
    scale = weight_scale(weight, layouts)
    rows = weight.detach().double().flatten(1)
    error = rows - quantize_weight(weight, scale).double().flatten(1) * scale.double()[:, None]
    signal, noise = rows.square().sum(1), error.square().sum(1)
    seen = (signal > 0) & (noise > 0)
    return float((10 * torch.log10(signal[seen] / noise[seen])).mean()) if bool(seen.any()) else float("inf")


def target_costs(prepared: PreparedModel, before: Target, after: Target) -> list[LayerCost]:
    """The weight SQNR of every INT8 layer whose scales are not the same for both targets."""
    network, costs = prepared.network, []
    for node in network.graph.nodes:
        if node.op != "call_module" or not isinstance(module := network.get_submodule(node.target), StoredFakeQuantize):
            continue
        if module.behind_lookup:  # rows of a table are added to nothing
            continue
        weight = constant_value(network, node.args[0])
        for layer in node.users:
            values = [weight_sqnr(weight, bounded_layouts(layer, network, target)) for target in (before, after)]
            if values[0] != values[1]:
                costs.append(LayerCost(layer=layer_name(layer), before=values[0], after=values[1]))
    return costs
