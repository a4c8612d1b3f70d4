"""Kernel tables: what kernels compute on INT8 grids. Frozen data, read by placement and convert.

A kernel belongs to one of four roles:

* `COMPUTE`  convolutions and linear layers: always integer, they are what INT8 is for.
* `LOOKUP`   embeddings: rows of an int8 table, returned as float.
* `FOLLOW`   additions, products, pools, activations: integer where the tensors around them are on a grid anyway. Those
             that `chains` compute in float registers between reading and writing integers; a chain of them (activation,
             squeeze, gate) reads and writes integers at its ends only, which saves roundings as well as time.
* `PASS`     order-preserving and shape ops: their output lives on their input's grid and needs none of its own.

`targets.py` says which table a target has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from torch import fx

from qat.quantization.graph.nodes import GraphNode, argument
from qat.quantization.program.ops import ELEMENTWISE


class Role(Enum):
    COMPUTE = "compute"
    LOOKUP = "lookup"
    FOLLOW = "follow"
    PASS = "pass"


class Output(Enum):
    """What a kernel returns: always a grid, a grid or float as the consumers prefer, or always float."""

    GRID = "grid"
    EITHER = "either"
    FLOAT = "float"


#: Reason why a node cannot run on its kernel; None when it can.
Requirement = Callable[[GraphNode], str | None]


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One row of a kernel table.

    Args:
        op: the ATen op of the captured graph.
        program_op: the op of the INT8 program; None for `PASS`, which keeps its ATen op.
        role, output: see the enums.
        absorbs: activations that the output grid's clamp can stand for.
        chains: may take float from, and hand float to, a neighbour that chains.
        data: positions of the arguments that are tensors on a grid.
        requires: a check of the node's arguments.
    """

    op: str
    program_op: str | None
    role: Role
    output: Output = Output.GRID
    absorbs: frozenset[str] = frozenset()
    chains: bool = False
    data: tuple[int, ...] = (0,)
    requires: Requirement | None = None

    def refusal(self, node: GraphNode) -> str | None:
        """Why `node` cannot run on this kernel; None when it can."""
        return self.requires(node) if self.requires else None


# --- requirements --------------------------------------------------------------------------------------------------


def is_tensor(arg: object) -> bool:
    """Whether a graph argument is a node that holds a tensor (and not a size)."""
    return isinstance(arg, fx.Node) and hasattr(arg.meta.get("val"), "dtype")


def _two_tensors(node: GraphNode) -> str | None:
    if not (is_tensor(node.args[0]) and is_tensor(node.args[1])):
        return "one operand is a number"
    return "alpha is not 1" if node.kwargs.get("alpha", 1) != 1 else None


def _zero_padding(node: GraphNode) -> str | None:
    mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value")
    return None if mode == "constant" and not value else "only zero padding keeps the grid"


def _lower_bound_zero(node: GraphNode) -> str | None:
    low, high = argument(node, 1, "min"), argument(node, 2, "max")
    bounded = low == 0 and (high is None or (isinstance(high, int | float) and high > 0))
    return None if bounded else "only a clamp that starts at 0 is the clamp of a grid"


def _spatial_mean(node: GraphNode) -> str | None:
    value = node.args[0].meta["val"] if isinstance(node.args[0], fx.Node) else None
    dims = argument(node, 1, "dim")
    if value is None or value.dim() != 4 or not isinstance(dims, list | tuple):
        return "only a mean over height and width of a 4-d tensor"
    return None if sorted(int(d) % 4 for d in dims) == [2, 3] else "only a mean over height and width"


def _no_divisor(node: GraphNode) -> str | None:
    return "divisor_override is set" if argument(node, 6, "divisor_override") is not None else None


# --- tables --------------------------------------------------------------------------------------------------------

RELU, CLAMP = "aten.relu.default", "aten.clamp.default"
ACTIVATIONS = frozenset({RELU, CLAMP})


def absorbable(node: GraphNode) -> bool:
    """Whether an activation can be the clamp of an output grid: a relu always, a clamp when it starts at 0."""
    return str(node.target) == RELU or _lower_bound_zero(node) is None


_CONVOLUTIONS = tuple(
    Kernel(
        op=f"aten.{name}.default",
        program_op=f"int8.{name}",
        role=Role.COMPUTE,
        absorbs=ACTIVATIONS,
    )
    for name in ("conv1d", "conv2d")
)

_LINEAR_GRID = Kernel(
    op="aten.linear.default",
    program_op="int8.linear",
    role=Role.COMPUTE,
    absorbs=ACTIVATIONS,
)
_LINEAR_EITHER = Kernel(
    op="aten.linear.default",
    program_op="int8.linear",
    role=Role.COMPUTE,
    output=Output.EITHER,
    absorbs=ACTIVATIONS,
)


#: Integers index the table; none of its inputs is on a grid and neither is its output.
_EMBEDDING = Kernel(
    op="aten.embedding.default",
    program_op="int8.embedding",
    role=Role.LOOKUP,
    output=Output.FLOAT,
    data=(),
)


def _follow(op: str, *, data: tuple[int, ...] = (0,), chains: bool = True, requires: Requirement | None = None) -> Kernel:
    return Kernel(
        op=f"aten.{op}",
        program_op=f"int8.{op.split('.')[0]}",
        role=Role.FOLLOW,
        data=data,
        absorbs=ACTIVATIONS,
        chains=chains,
        requires=requires,
    )


_FOLLOW = (
    _follow("add.Tensor", data=(0, 1), chains=False, requires=_two_tensors),
    _follow("cat.default", chains=False),
    _follow("mul.Tensor", data=(0, 1), requires=_two_tensors),
    _follow("mean.dim", requires=_spatial_mean),
    _follow("adaptive_avg_pool2d.default"),
    _follow("avg_pool2d.default", requires=_no_divisor),
    *(_follow(op.aten) for op in ELEMENTWISE.values()),
)


def _pass(op: str, requires: Requirement | None = None) -> Kernel:
    return Kernel(op=op, program_op=None, role=Role.PASS, requires=requires)


_PASS = (
    _pass(RELU),
    _pass("aten.max_pool2d.default"),
    _pass("aten.pad.default", requires=_zero_padding),
    _pass("aten.upsample_nearest2d.default"),
    _pass("aten.upsample_nearest2d.vec"),
    *(
        _pass(f"aten.{name}")
        for name in (
            "reshape.default",
            "flatten.using_ints",
            "permute.default",
            "transpose.int",
            "squeeze.dim",
            "squeeze.dims",
            "unsqueeze.default",
            "slice.Tensor",
            "select.int",
            "contiguous.default",
            "clone.default",
            "detach.default",
            "chunk.default",
            "split.Tensor",
            "split_with_sizes.default",
            "pixel_shuffle.default",
            "channel_shuffle.default",
        )
    ),
    _pass("<built-in function getitem>"),
)

#: FBGEMM and PyTorch's choice between FBGEMM and oneDNN: a linear layer may take a grid and return float in one kernel.
FBGEMM = (*_CONVOLUTIONS, _LINEAR_EITHER, _EMBEDDING, *_FOLLOW, *_PASS)

#: QNNPACK: its static linear layer returns a grid. FBGEMM runs this table as well.
QNNPACK = (*_CONVOLUTIONS, _LINEAR_GRID, _EMBEDDING, *_FOLLOW, *_PASS)
