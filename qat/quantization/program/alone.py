"""One node of a program as a program of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qat.quantization.graph.calls import InputSpec
from qat.quantization.program.program import Int8Program, Node, Ref, TensorRef, leaves, map_leaves
from qat.quantization.qparams import QParams


def alone(program: Int8Program, node: Node, values: Mapping[str, object]) -> tuple[Int8Program, list[Tensor]] | None:
    """The program of one node, and what to call it with; it takes and returns floats.

    Args:
        values: of every node before this one, as `Int8Model.watch` shows them: integers as uint8 tensors.

    Returns:
        None for a node that takes or returns something else than tensors and numbers.
    """
    grids = program.grids()
    sources = list(dict.fromkeys(leaf.name for leaf in leaves((node.args, *node.kwargs.values())) if isinstance(leaf, Ref)))
    if not all(source in values and isinstance(values[source], Tensor | int | float) for source in sources):
        return None
    tensors = {source: value for source in sources if isinstance(value := values[source], Tensor)}
    quantized = [
        Node(name=source, op="int8.quantize", args=(Ref(f"in_{source}"),), grid=grids[source])
        for source in tensors
        if source in grids
    ]

    def resolved(leaf: object) -> object:
        if not isinstance(leaf, Ref):
            return leaf
        if leaf.name not in tensors:
            return values[leaf.name]
        return leaf if leaf.name in grids else Ref(f"in_{leaf.name}")

    args, kwargs = map_leaves((node.args, dict(node.kwargs)), resolved)
    own = Node(name=node.name, op=node.op, args=args, kwargs=kwargs, grid=node.grid, layer=node.layer)
    read = [] if node.grid is None else [Node(name=f"{node.name}_read", op="int8.dequantize", args=(Ref(node.name),))]
    used = {leaf.name for leaf in leaves((node.args, *node.kwargs.values())) if isinstance(leaf, TensorRef)}
    given = [_float(value, grids.get(source)) for source, value in tensors.items()]
    named = zip(tensors, given, strict=True)
    single = Int8Program(
        inputs=tuple(InputSpec(name=f"in_{source}", dtype=x.dtype, shape=(None,) * x.dim()) for source, x in named),
        nodes=(*quantized, own, *read),
        output=Ref((read or [own])[-1].name),
        tensors={name: program.tensors[name] for name in used},
        target=program.target,
    )
    return single, given


def _float(value: Tensor, grid: QParams | None) -> Tensor:
    return value if grid is None else (value.to(torch.float32) - grid.zero_point) * grid.scale
