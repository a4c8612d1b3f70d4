"""Programs of one element-wise, pooling or shape op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qat.quantization.program.program import Int8Program, Ref
from qat.quantization.qparams import QParams
from tests.quantization.programs import INPUT_GRID, Writer, grid

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
