"""Programs written by hand: every op, at the edge of what 8 bits hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qat.quantization.engines import lower
from qat.quantization.engines.steps import StepModel
from qat.quantization.graph.calls import InputSpec
from qat.quantization.layouts import Framed, Layout
from qat.quantization.program.program import Int8Program, Node, Ref, TensorRef
from qat.quantization.qparams import QParams, short_scale

#: float32 values that lie on this grid are exact.
INPUT_GRID = QParams(scale=2.0**-5, zero_point=131)


def grid(scale: float, zero_point: int) -> QParams:
    return QParams(scale=float(short_scale(torch.tensor(scale))), zero_point=zero_point)


class Writer:
    """Builds an `Int8Program` node by node; names are counted up."""

    def __init__(self, *shapes: Sequence[int | None], target: str = "x86") -> None:
        self.inputs = tuple(
            InputSpec(name=f"x{i}", dtype=torch.float32, shape=(None, *shape)) for i, shape in enumerate(shapes)
        )
        self.nodes: list[Node] = []
        self.tensors: dict[str, Tensor] = {}
        self.target = target

    def add(self, op: str, *args: Any, grid: QParams | None = None, **kwargs: Any) -> Ref:
        name = f"n{len(self.nodes)}_{op.split('.')[1]}"
        self.nodes.append(Node(name=name, op=op, args=args, kwargs=kwargs, grid=grid))
        return Ref(name)

    def quantized(self, index: int = 0, grid: QParams = INPUT_GRID) -> Ref:
        return self.add("int8.quantize", Ref(f"x{index}"), grid=grid)

    def layer(
        self,
        op: str,
        x: Ref,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        *geometry: Any,
        grid: QParams | None,
    ) -> Ref:
        key = f"w{len(self.tensors)}"
        parts = {f"{key}.weight": weight, f"{key}.scale": scale, **({f"{key}.bias": bias} if bias is not None else {})}
        self.tensors |= parts
        refs = [TensorRef(name) for name in parts] + ([None] if bias is None else [])
        return self.add(op, x, *refs, *geometry, grid=grid)

    def finish(self, output: Any) -> Int8Program:
        return Int8Program(
            inputs=self.inputs,
            nodes=tuple(self.nodes),
            output=output,
            tensors=self.tensors,
            target=self.target,
        )


def extreme_weight(shape: Sequence[int], layouts: Sequence[Layout] = (), *, seed: int = 0) -> Tensor:
    """int8 weights with the largest sums that are allowed: +-127, or neighbours that add up to exactly 128.

    Channels take turns: all of one sign (the largest accumulator), random signs (neighbours of opposite sign may be 127 each),
    and random over the whole range.
    """
    generator = torch.Generator().manual_seed(seed)
    weight = torch.full(tuple(shape), 64 if layouts else 127)
    signs = torch.randint(0, 2, tuple(shape), generator=generator) * 2 - 1
    weight[1::3] = 127 * signs[1::3]
    weight[2::3] = torch.randint(-127, 128, weight[2::3].shape, generator=generator)
    return bounded(weight, layouts).to(torch.int8)


def bounded(weight: Tensor, layouts: Sequence[Layout]) -> Tensor:
    """Integers of which the second of two neighbours is shrunk until they add up to 128 at most."""
    rows = weight.flatten(1).clone()
    for layout in layouts:
        (order,) = layout.rows(torch.arange(1, rows.shape[1] + 1).reshape(1, *weight.shape[1:])) - 1
        first, second = order[0::2], order[1::2]
        both = (first >= 0) & (second >= 0)  # the others stand beside a zero
        a, b = rows[:, first[both]], rows[:, second[both]]
        rows[:, second[both]] = torch.where((a + b).abs() > 128, b.sign() * (128 - a.abs()), b)
    return rows.reshape(weight.shape)


def extreme_input(shape: Sequence[int], *, grid: QParams = INPUT_GRID, seed: int = 0) -> Tensor:
    """Floats on the grid: the first sample all at 255, the others random over the whole grid, half of it at its ends."""
    generator = torch.Generator().manual_seed(seed)
    integers = torch.randint(0, 256, tuple(shape), generator=generator)
    ends = torch.randint(0, 2, tuple(shape), generator=generator) * 255
    integers = torch.where(torch.rand(tuple(shape), generator=generator) < 0.5, ends, integers)
    integers[0] = 255
    return (integers - grid.zero_point).float() * grid.scale


def layer_program(
    op: str,
    weight: Tensor,
    *,
    channels: int,
    between: int = 0,
    geometry: tuple[Any, ...] = (),
    pads: Sequence[int] = (),
    float_output: bool = False,
    zero_point: int = INPUT_GRID.zero_point,
    bias: bool = True,
    target: str = "x86",
    seed: int = 0,
) -> Int8Program:
    """quantize -> one layer (-> dequantize).

    The output grid spans about +-2 standard deviations, so both of its ends are reached.

    Args:
        channels: of the input (features of a linear layer).
        between: dimensions between the batch and the features of a linear layer.
        geometry: stride, padding, dilation, groups of a convolution.
        pads: zero padding of its own in front of a convolution.
    """
    generator = torch.Generator().manual_seed(seed)
    free = (None,) * (between or weight.dim() - 2)
    source = grid(INPUT_GRID.scale, zero_point)
    scale = short_scale(torch.rand(weight.shape[0], generator=generator) * 0.02 + 0.002)
    terms = weight[0].numel()
    spread = float(scale.mean()) * source.scale * 127 * 90 * terms**0.5
    shape = (*free, channels) if op == "int8.linear" else (channels, *free)
    writer = Writer(shape, target=target)
    x = writer.quantized(grid=source)
    y = writer.layer(
        op,
        writer.add("aten.pad.default", x, list(pads), grid=source) if pads else x,
        weight,
        scale,
        torch.randn(weight.shape[0], generator=generator) * spread / 2 if bias else None,
        *geometry,
        grid=None if float_output else grid(4 * spread / 255, 117),
    )
    return writer.finish(y if float_output else writer.add("int8.dequantize", y))


#: Taps that are no neighbours in rows of three, and are in rows of five behind a padding of (1, 1, 0, 1).
TRAP = torch.tensor([0, 127, 127, 0, 0, 0, 0, 0, 0]).reshape(1, 1, 3, 3)
TRAP_FRAME = Framed(size=5, top=2, left=1)


def bound(program: Int8Program, engine: str) -> StepModel:
    """The program bound to an engine whose steps a test looks at."""
    model = lower(program, engine)
    assert isinstance(model, StepModel)
    return model
