"""What the fake quantization computes at every node of a program."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from qat.quantization.fake_quantize import FakeQuantize
from qat.quantization.graph.calls import InputSpec
from qat.quantization.prepared import PreparedModel
from qat.quantization.program.program import Int8Program, Node, Ref, leaves


class Simulation(fx.Interpreter):
    """Runs the prepared network and keeps the value of every graph node."""

    def __init__(self, prepared: PreparedModel) -> None:
        super().__init__(prepared.network)
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n.name] = value = super().run_node(n)
        return value


def simulated(prepared: PreparedModel, x: Tensor) -> dict[str, Any]:
    """The value that every program node has in the simulation; a tensor on a grid as its rounded floats."""
    simulation = Simulation(prepared)
    with torch.no_grad():
        simulation.run(x)
    values = dict(simulation.values)
    for node in prepared.network.graph.nodes:
        if node.op == "call_module" and isinstance(prepared.network.get_submodule(node.target), FakeQuantize):
            source = node.args[0].name
            for name in (f"{source}_quantized", source, prepared.placement.absorbed.get(source, source)):
                values[name] = simulation.values[node.name]
    return values


def alone(program: Int8Program, node: Node, values: dict[str, Any]) -> Int8Program:
    """A program of one node of another, which takes that node's inputs as floats."""
    sources = list(dict.fromkeys(leaf.name for leaf in leaves(node.args) if isinstance(leaf, Ref)))
    grids = program.grids()
    quantized = [
        Node(name=source, op="int8.quantize", args=(Ref(f"in_{source}"),), grid=grids[source])
        for source in sources
        if source in grids
    ]
    used = {leaf.name for leaf in leaves(node.args) if not isinstance(leaf, Ref) and hasattr(leaf, "name")}
    return Int8Program(
        inputs=tuple(InputSpec(name=f"in_{s}", dtype=torch.float32, shape=(None,) * values[s].dim()) for s in sources),
        nodes=(*quantized, node),
        output=Ref(node.name),
        tensors={name: program.tensors[name] for name in used},
        target=program.target,
    )
