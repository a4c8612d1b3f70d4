"""Parity: does the deployed network compute what was trained, layer by layer?

Two comparisons, both with every layer given the *same* input, so that a deviation is charged to the layer that makes it
and not to those behind it:

* `engine_parity`      an engine against `reference`, in grid steps; in steps of the accumulator where a layer returns float;
* `simulation_parity`  the fake-quant simulation against `reference`, in grid steps, and the SQNR end to end, beside that of
                       INT8 against float.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from qat.quantization.engines import lower
from qat.quantization.fake_quantize import ActivationFakeQuantize
from qat.quantization.graph.nodes import GraphNode, chooses, quantized_tensor
from qat.quantization.prepared import PreparedModel
from qat.quantization.program.ops import LAYER_OPS, TABLE_OPS
from qat.quantization.program.program import Int8Program
from qat.quantization.unrounded import Unrounded


@dataclass(frozen=True, kw_only=True)
class LayerParity:
    """How far one tensor on a grid deviates.

    Args:
        name, layer: the node and the model's layer it belongs to.
        max_steps: largest difference in grid steps, given the same input.
        differing: share of outputs that differ at all, given the same input.
        outputs: how many outputs were compared.
        sqnr_db: 10 log10(signal power / difference power) end to end; infinite when equal.
        float_db: the same against the network without any rounding: what INT8 costs up to here; None where that is not known.
    """

    name: str
    layer: str
    max_steps: int
    differing: float
    outputs: int
    sqnr_db: float
    float_db: float | None = None


def engine_parity(program: Int8Program, engine: str, inputs: Sequence[Tensor]) -> list[LayerParity]:
    """Compare every integer tensor of `engine` with `reference`, and what its layers and tables return as float, each node
    given the reference's inputs."""
    reference, other = lower(program, "reference"), lower(program, engine)
    expected = reference.watch(*inputs)[1]
    local = other.watch(*inputs, replay=expected)[1]
    whole = other.watch(*inputs)[1]
    units: dict[str, Tensor | None] = {**dict.fromkeys(program.grids()), **_float_units(program)}
    return [
        _compare(node.name, node.layer, expected[node.name], local[node.name], whole[node.name], units[node.name])
        for node in program.nodes
        if node.name in units and node.name in local and isinstance(expected[node.name], Tensor)
    ]


def _float_units(program: Int8Program) -> dict[str, Tensor]:
    """What one step is in the float output of a layer or table: s_x * s_w per channel, or the largest scale of a row."""
    grids = program.grids()
    units = {}
    for node in program.nodes:
        if node.op in LAYER_OPS and node.grid is None:
            units[node.name] = grids[node.args[0].name].scale * program.tensors[node.args[2].name]
        elif node.op in TABLE_OPS:
            units[node.name] = program.tensors[node.args[2].name].max()
    return units


def simulation_parity(prepared: PreparedModel, program: Int8Program, inputs: Sequence[Tensor]) -> list[LayerParity]:
    """Compare every fake-quantized tensor of the simulation with the program's integers on `reference`."""
    expected = lower(program, "reference").watch(*inputs)[1]
    grids, layers = program.grids(), {node.name: node.layer for node in program.nodes}
    forced, free = _Simulation(prepared, expected), _Simulation(prepared, None)
    with torch.no_grad(), prepared.evaluating():
        forced.run(*inputs)
        free.run(*inputs)
        exact = _Float(prepared)
        exact.run(*inputs)
    rows = []
    for source, name in forced.names.items():
        integers, grid = expected[name], grids[name]
        local, whole = (_to_grid(values[source], grid.scale, grid.zero_point) for values in (forced.seen, free.seen))
        row = _compare(name, layers[name], integers, local, whole)
        deployed = (integers.to(torch.float32) - grid.zero_point) * grid.scale
        rows.append(replace(row, float_db=_decibels(exact.seen[source], deployed - exact.seen[source])))
    return rows


def first_bad(rows: Sequence[LayerParity], *, max_steps: int, max_differing: float = 1.0) -> LayerParity | None:
    """The first layer, in execution order, that deviates by more than is allowed."""
    return next((row for row in rows if row.max_steps > max_steps or row.differing > max_differing), None)


class _Simulation(fx.Interpreter):
    """Runs the prepared network and keeps every fake-quantized tensor; can force each to the program's value, and every choice
    (of queries by score) to the program's choice: what is compared behind it has to be of the same queries."""

    def __init__(self, prepared: PreparedModel, expected: dict[str, Any] | None) -> None:
        super().__init__(prepared.network)
        self.expected = expected
        self.grids = {name: module.qparams() for name, module in prepared.fake_quantizes()}
        self.absorbed = dict(prepared.placement.absorbed)
        self.seen: dict[str, Tensor] = {}
        self.names: dict[str, str] = {}

    def run_node(self, n: fx.Node) -> object:
        if self.expected is not None and n.name in self.expected and chooses(n):
            return self.expected[n.name]
        value = super().run_node(n)
        if n.op != "call_module" or not isinstance(self.module.get_submodule(str(n.target)), ActivationFakeQuantize):
            return value
        source = quantized_tensor(n)
        self.seen[source.name] = value
        if self.expected is not None:
            name = next(name for name in self._candidates(source.name) if name in self.expected)
            self.names[source.name] = name
            grid = self.grids[source.name]
            value = (self.expected[name].to(torch.float32) - grid.zero_point) * grid.scale
        return value

    def _candidates(self, source: str) -> Iterator[str]:
        """Where the program keeps this tensor: quantized from float, the kernel that absorbed it, or itself."""
        yield f"{source}_quantized"
        if source in self.absorbed:
            yield self.absorbed[source]
        yield source


class _Float(Unrounded):
    """Keeps every tensor that is to be rounded."""

    def __init__(self, prepared: PreparedModel) -> None:
        super().__init__(prepared)
        self.seen: dict[str, Tensor] = {}

    def see(self, call: GraphNode, value: Tensor) -> None:
        self.seen[quantized_tensor(call).name] = value


def _to_grid(value: Tensor, scale: float, zero_point: int) -> Tensor:
    return torch.round(value / scale).add_(zero_point)


def _compare(name: str, layer: str, expected: Tensor, local: Tensor, whole: Tensor, unit: Tensor | None = None) -> LayerParity:
    """Integers differ by whole steps; a float that differs at all counts as one step at least."""
    steps = (local.to(torch.float32) - expected.to(torch.float32)).abs()
    if unit is not None:
        steps = (steps / unit).ceil()
    signal = expected.to(torch.float32)
    return LayerParity(
        name=name,
        layer=layer,
        max_steps=int(steps.max()) if steps.numel() else 0,
        differing=float((steps > 0).float().mean()) if steps.numel() else 0.0,
        outputs=steps.numel(),
        sqnr_db=_decibels(signal, whole.to(torch.float32) - signal),
    )


def _decibels(signal: Tensor, difference: Tensor) -> float:
    """10 log10 of the signal's variance over the squared difference; infinite when there is none."""
    noise = float(difference.square().sum())
    power = float((signal - signal.mean()).square().sum())
    return 10 * math.log10(power / noise) if noise > 0 and power > 0 else math.inf
