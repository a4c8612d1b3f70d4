"""Programs written by hand: every op, at the edge of what 8 bits hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qat.quantization.engines import lower
from qat.quantization.engines.steps import StepModel
from qat.quantization.graph.capture import InputSpec
from qat.quantization.layouts import Framed, Layout, frame_of
from qat.quantization.program.program import Int8Program, Node, Ref, TensorRef
from qat.quantization.qparams import QParams, short_scale
from qat.quantization.targets import get_target

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


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer of the zoo.

    Args:
        weight: its shape.
        size: spatial size of the input, or what stands before the features of a linear layer.
        geometry: stride, padding, dilation, groups of a convolution.
        pads: zero padding of its own in front of a convolution.
    """

    op: str
    weight: tuple[int, ...]
    size: tuple[int, ...] = ()
    geometry: tuple[Any, ...] = ()
    float_output: bool = False
    zero_point: int = INPUT_GRID.zero_point
    bias: bool = True
    pads: tuple[int, ...] = ()

    @property
    def groups(self) -> int:
        return int(self.geometry[3]) if self.geometry else 1

    @property
    def channels(self) -> int:
        return self.weight[1] * self.groups

    @property
    def depthwise(self) -> bool:
        return self.groups > 1 and self.weight[1] == 1

    def layouts(self, target: str = "x86") -> tuple[Layout, ...]:
        weight = torch.empty(self.weight)
        frame = frame_of(weight, groups=self.groups, dilation=self.geometry[2], pads=self.pads) if self.pads else None
        return get_target(target).layouts(self.op, weight, self.groups, frame)

    def program(self, *, target: str = "x86", bound: bool = True, seed: int = 0) -> Int8Program:
        """With weights at the limit of what the target allows; without `bound`, of what 8 bits hold."""
        return layer_program(
            self.op,
            extreme_weight(self.weight, self.layouts(target) if bound else (), seed=seed),
            channels=self.channels,
            between=len(self.size) if self.op == "int8.linear" else 0,
            geometry=self.geometry,
            pads=self.pads,
            float_output=self.float_output,
            zero_point=self.zero_point,
            bias=self.bias,
            target=target,
            seed=seed,
        )

    def inputs(self, batch: int = 2, seed: int = 0) -> Tensor:
        shape = (batch, *self.size, self.channels) if self.op == "int8.linear" else (batch, self.channels, *self.size)
        return extreme_input(shape, grid=grid(INPUT_GRID.scale, self.zero_point), seed=seed)


def conv(
    out: int, per_group: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1, dims: int = 2, **options: Any
) -> Layer:
    """A convolution with 'same' padding on an input of odd size."""
    padding = (kernel - 1) * dilation // 2
    geometry = (*((value,) * dims for value in (stride, padding, dilation)), groups)
    size = (13, 11) if dims == 2 else (37,)
    return Layer(f"int8.conv{dims}d", (out, per_group, *(kernel,) * dims), size, geometry, **options)


def linear(features: int, out: int, *between: int, **options: Any) -> Layer:
    return Layer("int8.linear", (out, features), between, **options)


LAYERS: dict[str, Layer] = {
    "dense 1x1": conv(24, 16, 1),
    "dense 1x1, zero point 0": conv(24, 16, 1, zero_point=0),
    "dense 3x3": conv(17, 16, 3),
    "dense 3x3, zero point 255": conv(17, 16, 3, zero_point=255),
    "dense 3x3 without bias": conv(16, 13, 3, bias=False),
    "dense 3x3 stride 2": conv(16, 8, 3, stride=2),
    "dense 3x3 dilation 2": conv(16, 8, 3, dilation=2),
    "dense 3x3 wide": conv(32, 256, 3),
    "stem 7x7": conv(32, 3, 7, stride=2),
    "one channel in": conv(16, 1, 3),
    "one channel out": conv(1, 16, 3),
    "patches 4x4": Layer("int8.conv2d", (24, 3, 4, 4), (12, 16), ((4, 4), (0, 0), (1, 1), 1)),
    "kernel 1x5": Layer("int8.conv2d", (16, 8, 1, 5), (9, 7), ((1, 2), (0, 2), (1, 1), 1)),
    "grouped 2": conv(16, 2, 3, groups=8),
    "grouped 4": conv(32, 4, 3, groups=8),
    "grouped 4 stride 2": conv(32, 4, 3, groups=8, stride=2),
    "grouped 8": conv(32, 8, 3, groups=4),
    "grouped 16": conv(32, 16, 3, groups=2),
    "grouped 32": conv(64, 32, 3, groups=2),
    "grouped 1x1": conv(32, 8, 1, groups=4),
    "depthwise 3x3": conv(32, 1, 3, groups=32),
    "depthwise 3x3, zero point 0": conv(32, 1, 3, groups=32, zero_point=0),
    "depthwise 3x3 stride 2": conv(32, 1, 3, groups=32, stride=2),
    "depthwise 3x3 dilation 2": conv(16, 1, 3, groups=16, dilation=2),
    "depthwise 5x5": conv(16, 1, 5, groups=16),
    "depthwise 5x5 stride 2": conv(24, 1, 5, groups=24, stride=2),
    "depthwise 7x7": conv(16, 1, 7, groups=16),
    "depthwise behind a padding": Layer(
        "int8.conv2d", (16, 1, 3, 3), (12, 12), ((2, 2), (0, 0), (1, 1), 16), pads=(1, 1, 0, 1)
    ),
    "depthwise of 104 channels": conv(104, 1, 3, groups=104),
    "depthwise of 13 channels": conv(13, 1, 3, groups=13),
    "depthwise with multiplier 2": conv(32, 1, 3, groups=16),
    "depthwise with multiplier 3": conv(24, 1, 3, groups=8),
    "conv1d": conv(16, 12, 5, dims=1),
    "conv1d stride 2": conv(16, 12, 3, dims=1, stride=2),
    "conv1d dilation 2": conv(16, 12, 3, dims=1, dilation=2),
    "conv1d point": conv(24, 16, 1, dims=1),
    "conv1d depthwise": conv(16, 1, 3, dims=1, groups=16),
    "linear 10": linear(64, 10),
    "linear 37": linear(33, 37),
    "linear 1000": linear(128, 1000),
    "linear tokens": linear(48, 24, 7),
    "linear without bias": linear(31, 16, bias=False),
    "linear long": linear(4096, 9),
    "linear float 10": linear(64, 10, float_output=True),
    "linear float 37": linear(33, 37, 5, float_output=True),
    "linear float 1000": linear(128, 1000, float_output=True),
    "linear float without bias": linear(40, 24, float_output=True, bias=False),
    "linear float long": linear(4096, 9, float_output=True),
}

A, B, OUT = grid(0.031, 120), grid(0.0173, 9), grid(0.0441, 77)


def unary(op: str, *args: Any, out: QParams = OUT) -> Callable[[Writer], Ref]:
    """One element-wise or pooling op on an image."""
    return lambda w: w.add(op, w.quantized(grid=A), *args, grid=out)


def keeps(op: str, *args: Any) -> Callable[[Writer], Ref]:
    """One op that keeps its input's grid, and a float round trip behind it, which sees its strides."""
    return lambda w: w.add("int8.hardswish", w.add(op, w.quantized(grid=A), *args, grid=A), grid=OUT)


def binary(op: str, second: int = 1) -> Callable[[Writer], Ref]:
    return lambda w: w.add(op, w.quantized(0, A), w.quantized(second, B), grid=OUT)


def pick(op: str, *args: Any) -> Callable[[Writer], Ref]:
    """Split into a list, and concatenate two of its tensors the other way round."""

    def build(w: Writer) -> Ref:
        parts = w.add(op, w.quantized(grid=A), *args, 1, grid=A)
        first, second = (w.add("size.getitem", parts, i, grid=A) for i in (0, 1))
        return w.add("int8.cat", [second, first], 1, grid=OUT)

    return build


def cat(dim: int) -> Callable[[Writer], Ref]:
    return lambda w: w.add("int8.cat", [w.quantized(0, A), w.quantized(1, B), w.quantized(0, INPUT_GRID)], dim, grid=OUT)


#: Inputs: x0 and x1 of (8, 9, 7), x2 of (8, 1, 1).
OPS: dict[str, Callable[[Writer], Ref]] = {
    "add": binary("int8.add"),
    "add of a gate": binary("int8.add", 2),
    "mul": binary("int8.mul"),
    "mul by a gate": binary("int8.mul", 2),
    "cat": cat(1),
    "cat of the last dimension": cat(-1),
    "mean": unary("int8.mean", [2, 3]),
    "mean keeps dimensions": unary("int8.mean", [-1, -2], True),
    "mean of a short grid": unary("int8.mean", [2, 3], True, out=grid(0.004, 128)),
    "adaptive pool 1": unary("int8.adaptive_avg_pool2d", [1, 1], out=grid(0.004, 128)),
    "adaptive pool 3x2": unary("int8.adaptive_avg_pool2d", [3, 2], out=grid(0.01, 128)),
    "average pool": unary("int8.avg_pool2d", [3, 3], [2, 2], [1, 1]),
    "average pool ceil, without padding": unary("int8.avg_pool2d", [2, 2], [2, 2], [1, 1], True, False),
    "hardswish": unary("int8.hardswish"),
    "hardsigmoid": unary("int8.hardsigmoid", out=grid(1 / 255, 0)),
    "sigmoid": unary("int8.sigmoid", out=grid(1 / 255, 0)),
    "silu": unary("int8.silu"),
    "leaky relu": unary("int8.leaky_relu", 0.1),
    "clamp": unary("int8.clamp", -1.0, 2.0),
    "clamp from below": unary("int8.clamp", 0.5),
    "clamp from above": unary("int8.clamp", None, 0.7),
    "relu": keeps("aten.relu.default"),
    "max pool": keeps("aten.max_pool2d.default", [3, 3], [2, 2], [1, 1]),
    "max pool ceil": keeps("aten.max_pool2d.default", [2, 2], [2, 2], [0, 0], [1, 1], True),
    "max pool dilated": keeps("aten.max_pool2d.default", [2, 2], [1, 1], [0, 0], [2, 2]),
    "upsample by size": keeps("aten.upsample_nearest2d.default", [18, 21]),
    "upsample by factor": keeps("aten.upsample_nearest2d.vec", None, [2.0, 2.0]),
    "pad": keeps("aten.pad.default", [1, 2, 0, 3]),
    "pad with all arguments": keeps("aten.pad.default", [1, 1, 1, 1], "constant", 0.0),
    "crop by padding": keeps("aten.pad.default", [-1, 0, 2, -1]),
    "reshape": keeps("aten.reshape.default", [-1, 4, 2, 63]),
    "flatten": keeps("aten.flatten.using_ints", 1),
    "flatten of the image": keeps("aten.flatten.using_ints", 2),
    "permute": keeps("aten.permute.default", [0, 2, 3, 1]),
    "transpose": keeps("aten.transpose.int", 1, 3),
    "slice": keeps("aten.slice.Tensor", 1, 1, 7, 2),
    "select": keeps("aten.select.int", 2, -1),
    "squeeze": lambda w: w.add("int8.silu", w.add("aten.squeeze.dims", w.quantized(2, A), [2, 3], grid=A), grid=OUT),
    "squeeze one": lambda w: w.add("int8.silu", w.add("aten.squeeze.dim", w.quantized(2, A), 3, grid=A), grid=OUT),
    "unsqueeze": keeps("aten.unsqueeze.default", 1),
    "contiguous": keeps("aten.contiguous.default"),
    "clone": keeps("aten.clone.default"),
    "pixel shuffle": keeps("aten.pixel_shuffle.default", 2),
    "channel shuffle": keeps("aten.channel_shuffle.default", 4),
    "chunk": pick("aten.chunk.default", 2),
    "chunk unevenly": pick("aten.chunk.default", 3),
    "split": pick("aten.split.Tensor", 3),
    "split with sizes": pick("aten.split_with_sizes.default", [3, 5]),
}


def op_program(name: str, *, target: str = "x86") -> Int8Program:
    writer = Writer((8, None, None), (8, None, None), (8, 1, 1), target=target)
    return writer.finish(writer.add("int8.dequantize", OPS[name](writer)))


def op_inputs(batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Full range, and beyond it, off the grid."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(batch, 8, 9, 7, generator=generator) * scale for scale in (3.0, 2.0))
    return a, b, torch.randn(batch, 8, 1, 1, generator=generator) * 3


#: Taps that are no neighbours in rows of three, and are in rows of five behind a padding of (1, 1, 0, 1).
TRAP = torch.tensor([0, 127, 127, 0, 0, 0, 0, 0, 0]).reshape(1, 1, 3, 3)
TRAP_FRAME = Framed(size=5, top=2, left=1)


def bound(program: Int8Program, engine: str) -> StepModel:
    """The program bound to an engine whose steps a test looks at."""
    model = lower(program, engine)
    assert isinstance(model, StepModel)
    return model
