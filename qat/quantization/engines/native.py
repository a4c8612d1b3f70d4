"""PyTorch's native INT8 kernels (`torch.ops.quantized`), shared by the engines that select among them.

This file and the engine files beside it are the only ones that touch `torch.ops.quantized` or a quantized dtype, which
upstream has announced to remove (pytorch#184982). Programs and artifacts hold neither.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.quantization.engines.kernels import Function, Kernels
from qat.quantization.engines.padding import widen
from qat.quantization.program.program import Node
from qat.quantization.qparams import QParams

#: ATen ops that PyTorch implements for quantized tensors without leaving their grid.
_ON_QUANTIZED = frozenset(
    f"aten.{name}"
    for name in """
    relu.default max_pool2d.default reshape.default flatten.using_ints permute.default transpose.int squeeze.dim
    squeeze.dims unsqueeze.default slice.Tensor select.int contiguous.default clone.default chunk.default split.Tensor
    split_with_sizes.default upsample_nearest2d.default upsample_nearest2d.vec
    """.split()
)


#: Which engine is selected is one setting of the whole process: who selects one is alone until it is given back.
_SELECTED = threading.RLock()


@contextmanager
def quantized_engine(name: str) -> Iterator[None]:
    """Select PyTorch's quantized engine for weight packing and kernel calls inside the block; one thread at a time."""
    with _SELECTED, warnings.catch_warnings():
        previous = torch.backends.quantized.engine
        warnings.filterwarnings("ignore", message=".*(quint8|qint8|quantized).*", category=UserWarning)
        torch.backends.quantized.engine = name
        try:
            yield
        finally:
            torch.backends.quantized.engine = previous


def missing(name: str) -> str | None:
    """Why this PyTorch build lacks a quantized engine; None when it has it."""
    supported = torch.backends.quantized.supported_engines
    if name in supported and hasattr(torch.ops.quantized, "conv2d_prepack"):
        return None
    return f"this PyTorch build ({torch.__version__}) has no {name!r} engine; it has {', '.join(supported) or 'none'}"


class NativeKernels(Kernels):
    """Integers are quint8 tensors; 4-d ones in channels-last layout, in which the kernels compute."""

    def quantize(self, grid: QParams) -> Function:
        scale, zero_point = grid.scale, grid.zero_point
        # PyTorch warns at the first quantized tensor of a process: let that be here, inside `quantized_engine`.
        torch.quantize_per_tensor(torch.zeros(1, dtype=torch.float32, device="cpu"), scale, zero_point, torch.quint8)

        def quantize(x: Tensor) -> Tensor:
            if x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            return torch.quantize_per_tensor(x, scale, zero_point, torch.quint8)

        return quantize

    def dequantize(self, grid: QParams) -> Function:
        return torch.dequantize

    def integers(self, q: Tensor) -> Tensor:
        """The integers as a view of the same memory; `int_repr` would copy them, in one thread."""
        return torch.empty(0, dtype=torch.uint8).set_(q.untyped_storage(), q.storage_offset(), q.shape, q.stride())

    def from_integers(self, integers: Tensor, grid: QParams) -> Tensor:
        return torch._make_per_tensor_quantized_tensor(integers, grid.scale, grid.zero_point)

    def centred(self, grid: QParams) -> Function:
        """Dequantized as if the scale were 1: one pass."""
        unit = QParams(scale=1.0, zero_point=grid.zero_point)
        return lambda q: torch.dequantize(self.from_integers(self.integers(q), unit))

    def rounded(self, grid: QParams) -> Function:
        """y in units of the grid, float32 -> clamp(round(y) + zero_point, 0, 255) as integers on it, 4-d ones channels-last."""
        zero_point = grid.zero_point

        def rounded(y: Tensor) -> Tensor:
            integers = self.integers(torch.quantize_per_tensor(y, 1.0, zero_point, torch.quint8))
            if y.dim() == 4:
                integers = integers.contiguous(memory_format=torch.channels_last)
            return self.from_integers(integers, grid)

        return rounded

    def layer(self, node: Node, tensors: list[Tensor | None], grid: QParams) -> Function:
        weight, weight_scale, bias = tensors
        assert weight is not None
        assert weight_scale is not None
        if node.op == "int8.linear":
            return self.linear(pack_linear(weight, weight_scale, bias), grid, node.grid)
        assert node.grid is not None
        stride, padding, dilation, groups = (list(node.args[4]), list(node.args[5]), list(node.args[6]), node.args[7])
        packed_weight = per_channel(weight, weight_scale)
        name = node.op.removeprefix("int8.")
        prepack = getattr(torch.ops.quantized, f"{name}_prepack")
        packed = prepack(packed_weight, bias, stride, padding, dilation, groups)
        run = torch.ops.quantized.conv2d.new if name == "conv2d" else torch.ops.quantized.conv1d
        scale, zero_point = node.grid.scale, node.grid.zero_point
        return lambda q: run(q, packed, scale, zero_point)

    def padded_layer(self, node: Node, pad: Node, tensors: list[Tensor | None], grid: QParams) -> Function | None:
        weight, weight_scale, bias = tensors
        assert weight is not None
        assert weight_scale is not None
        assert node.grid is not None
        wide = widen(node, pad, weight)
        if wide is None:
            return None
        around = [wide.padding] * 2
        packed_weight, groups = per_channel(wide.weight, weight_scale), node.args[7]
        packed = torch.ops.quantized.conv2d_prepack(packed_weight, bias, list(wide.stride), around, [1, 1], groups)
        run, scale, zero_point = torch.ops.quantized.conv2d.new, node.grid.scale, node.grid.zero_point
        plain, amounts = self.layer(node, tensors, grid), pad.args[1]

        def layer(q: Tensor) -> object:
            if wide.fits(q.shape[-2], q.shape[-1]):
                return run(q, packed, scale, zero_point)
            return plain(self.pad(q, amounts, grid))

        return layer

    def embedding(self, weight: Tensor, scale: Tensor) -> Function:
        """PyTorch's byte embedding: (u8 - 128) * s, exact with short scales; three times as fast as plain ATen."""
        shifted = (weight.to(torch.int16) + 128).to(torch.uint8)
        table = torch._make_per_channel_quantized_tensor(shifted, scale, torch.full(scale.shape, 128.0), 0)
        packed = torch.ops.quantized.embedding_bag_prepack(table)
        return lambda indices: torch.ops.quantized.embedding_byte(packed, indices.contiguous())

    def pad(self, q: Tensor, pad: list[int], grid: QParams) -> Tensor:
        """Zero padding by copying integers into a frame of zero points; no kernel for it exists."""
        padded = F.pad(self.integers(q), pad, value=grid.zero_point)
        if q.dim() == 4:
            padded = padded.contiguous(memory_format=torch.channels_last)
        return self.from_integers(padded, grid)

    def linear(self, packed: object, grid: QParams, out: QParams | None) -> Function:
        """A linear layer with an output grid; engines that can return float override this."""
        assert out is not None
        run, scale, zero_point = torch.ops.quantized.linear.default, out.scale, out.zero_point
        return lambda q: run(q, packed, scale, zero_point)

    def add(self, a: QParams, b: QParams, out: QParams) -> Function:
        run, scale, zero_point = torch.ops.quantized.add.default, out.scale, out.zero_point
        general = super().add(a, b, out)
        return lambda x, y: run(x, y, scale, zero_point) if x.shape == y.shape else general(x, y)

    def cat(self, grids: list[QParams], out: QParams) -> Function:
        run, scale, zero_point = torch.ops.quantized.cat.default, out.scale, out.zero_point
        return lambda qs, dim=0: run(qs, dim, scale, zero_point)

    def keep_grid(self, op: Function, name: str, grid: QParams) -> Function:
        if name == "aten.pad.default":
            return lambda q, pad, *_: self.pad(q, pad, grid)
        if name in _ON_QUANTIZED:
            return op
        dequantize, quantize = self.dequantize(grid), self.quantize(grid)
        return lambda q, *rest: quantize(op(dequantize(q), *rest))


def per_channel(weight: Tensor, scale: Tensor) -> Tensor:
    """An int8 weight of shape (C, ...) with scales of shape (C,) as PyTorch's quantized tensor."""
    zeros = torch.zeros(scale.shape, dtype=torch.int64)
    return torch._make_per_channel_quantized_tensor(weight, scale.to(torch.float64), zeros, 0)


def pack_linear(weight: Tensor, scale: Tensor, bias: Tensor | None) -> object:
    return torch.ops.quantized.linear_prepack(per_channel(weight, scale), bias)
