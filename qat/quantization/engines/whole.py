"""Whole-graph engines: another runtime compiles the program, grids and all, and keeps what is inside to itself.

Such a model can still be compared layer by layer: a program whose outputs are all tensors on a grid shows what it computes end
to end, and one of a single node, given the reference's input, what that layer does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qat.quantization.engines.engine import Engine, Int8Model, snapshot
from qat.quantization.program.alone import alone
from qat.quantization.program.ops import LAYER_OPS, TABLE_OPS
from qat.quantization.program.program import Int8Program, Node, Ref

#: Inputs -> outputs in the structure of the program's.
Compiled = Callable[..., Any]


class WholeGraphEngine(Engine):
    """An engine that compiles programs."""

    @abstractmethod
    def compile(self, program: Int8Program) -> Compiled:
        """The program as something to call."""

    def bind(self, program: Int8Program) -> Int8Model:
        return WholeGraphModel(program, engine=self)


class WholeGraphModel(Int8Model):
    """A compiled program; what `watch` shows is compiled when it is asked for."""

    def __init__(self, program: Int8Program, *, engine: WholeGraphEngine) -> None:
        super().__init__(program, engine=engine.name)
        self._engine = engine
        self._compiled = engine.compile(program)

    def compute(self, *inputs: Tensor) -> object:
        with torch.inference_mode():
            return self._compiled(*inputs)

    def look(self, inputs: Sequence[Tensor], replay: Mapping[str, object] | None) -> tuple[object, dict[str, object]]:
        """Tensors on a grid and the float outputs of layers and tables; other nodes are the runtime's own affair."""
        with torch.no_grad():
            return self.compute(*inputs), self._free(inputs) if replay is None else self._replayed(inputs, replay)

    def _seen(self) -> list[Node]:
        ops = (*LAYER_OPS, *TABLE_OPS)
        return [node for node in self.program.nodes if node.op in ops or (node.grid is not None and "chunk" not in node.op)]

    def _free(self, inputs: Sequence[Tensor]) -> dict[str, object]:
        """All of them from one run, in float: a grid is the last thing that is read."""
        seen = [node for node in self._seen() if not node.op.startswith("aten.split") and node.op != "aten.chunk.default"]
        reads = {node.name: f"{node.name}_seen" for node in seen if node.grid is not None}
        added = tuple(
            Node(name=reads[node.name], op="int8.dequantize", args=(Ref(node.name),)) for node in seen if node.name in reads
        )
        output = tuple(Ref(reads.get(node.name, node.name)) for node in seen)
        program = replace(self.program, nodes=(*self.program.nodes, *added), output=output)
        values = self._engine.compile(program)(*inputs)
        return {node.name: _integers(node, value) for node, value in zip(seen, values, strict=True)}

    def _replayed(self, inputs: Sequence[Tensor], replay: Mapping[str, object]) -> dict[str, object]:
        given = dict(zip((spec.name for spec in self.program.inputs), inputs, strict=True))
        found = {}
        for node in self._seen():
            single = alone(self.program, node, {**given, **replay})
            if single is not None:
                program, values = single
                found[node.name] = _integers(node, self._engine.compile(program)(*values))
        return found


def _integers(node: Node, value: Tensor) -> object:
    if node.grid is None:
        return snapshot(value)
    return torch.round(value / node.grid.scale).add_(node.grid.zero_point).clamp_(0, 255).to(torch.uint8)
