"""The reference engine: exact integer arithmetic in plain PyTorch, on any device. It defines what a program means.

Integers are held in float32 tensors. Products of u8 and s8 are summed exactly: in float32 where no partial sum can reach
2^24 (255 * sum |w| decides, per layer, before the first run), in float64 otherwise. Requantization follows FBGEMM's, found by
measurement, every step in float32 after the exact accumulator:

    q = clamp(round_half_even((acc + bias / (s_x s_w)) * (s_x s_w / s_y)) + z_y, 0, 255)       with an output grid
    y = fma(acc, s_x s_w, bias)                                                                 without one
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.quantization.engines.engine import Engine, Int8Model
from qat.quantization.engines.kernels import Function, Kernels
from qat.quantization.engines.lowering import bind_steps
from qat.quantization.program.program import Int8Program, Node
from qat.quantization.qparams import ACTIVATION_HIGH, ACTIVATION_LOW, QParams

_EXACT_FLOAT32 = 2**24


class Reference(Engine):
    """Slow, exact, everywhere."""

    name = "reference"
    exact = True

    def refusal(self, program: Int8Program) -> str | None:
        return None

    def bind(self, program: Int8Program) -> Int8Model:
        return bind_steps(program, _ReferenceKernels(), engine=self.name)


def quantize(x: Tensor, grid: QParams) -> Tensor:
    """clamp(round(x * (1 / scale)) + zero_point, 0, 255), as integers in float32."""
    inverse = 1.0 / torch.tensor(grid.scale, dtype=torch.float32, device=x.device)
    return torch.round(x * inverse).add_(grid.zero_point).clamp_(ACTIVATION_LOW, ACTIVATION_HIGH)


def accumulate(node: Node, x: Tensor, weight: Tensor) -> Tensor:
    """The exact sum of products of centred activations and weights, in float64 or exact float32."""
    if node.op == "int8.linear":
        return F.linear(x, weight)
    stride, padding, dilation, groups = node.args[4:8]
    convolve = F.conv2d if node.op == "int8.conv2d" else F.conv1d
    return convolve(x, weight, None, stride, padding, dilation, groups)


def requantize(acc: Tensor, scale: Tensor, bias: Tensor | None, grid: QParams) -> Tensor:
    """FBGEMM's requantization of the exact accumulator.

    Args:
        acc: shape (N, C, ...) or (..., C) broadcastable against `scale`, exact integers in float32 or float64.
        scale: s_x * s_w in float32, shaped to broadcast.
        bias: float32, shaped like `scale`.
    """
    y = acc.to(torch.float32)
    if bias is not None:
        y = y + bias / scale
    y = y * (scale / torch.tensor(grid.scale, dtype=torch.float32, device=y.device))
    return torch.round(y).add_(grid.zero_point).clamp_(ACTIVATION_LOW, ACTIVATION_HIGH)


def fused_multiply_add(a: Tensor, b: Tensor, c: Tensor | None) -> Tensor:
    """a * b + c of float32 tensors, rounded once, as the kernels' fma does; exact for every input.

    The product is exact in float64. The sum is rounded to odd there (its error, by Knuth's two-sum, says in which direction the
    truth lies), so that the second rounding, to float32, is that of the exact sum.

    Reference: Boldo and Melquiond 2008, IEEE Transactions on Computers 57, "Emulation of FMA and correctly rounded sums".
    """
    product = a.to(torch.float64) * b.to(torch.float64)
    if c is None:
        return product.to(torch.float32)
    addend = c.to(torch.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    even = (total.view(torch.int64) & 1) == 0
    towards = torch.where(error > 0, torch.inf, -torch.inf).to(torch.float64)
    odd = torch.where((error != 0) & even, torch.nextafter(total, towards), total)
    return odd.to(torch.float32)


class _ReferenceKernels(Kernels):
    def quantize(self, grid: QParams) -> Function:
        return lambda x: quantize(_channels_last(x), grid)

    def dequantize(self, grid: QParams) -> Function:
        return lambda q: (q - grid.zero_point).mul_(grid.scale)

    def integers(self, q: Tensor) -> Tensor:
        return q.to(torch.uint8)

    def from_integers(self, integers: Tensor, grid: QParams) -> Tensor:
        return integers.to(torch.float32)

    def centred(self, grid: QParams) -> Function:
        return lambda q: q - grid.zero_point

    def layer(self, node: Node, tensors: list[Tensor | None], grid: QParams) -> Function:
        weight, weight_scale, bias = tensors
        assert weight is not None
        assert weight_scale is not None
        largest = ACTIVATION_HIGH * int(weight.flatten(1).to(torch.int64).abs().sum(1).max())
        dtype = torch.float32 if largest < _EXACT_FLOAT32 else torch.float64
        shape = (-1,) if node.op == "int8.linear" else (-1, *([1] * (weight.dim() - 2)))
        scale = (weight_scale * torch.tensor(grid.scale, dtype=torch.float32)).reshape(shape)
        offset = bias.reshape(shape) if bias is not None else None
        exact, out = weight.to(dtype), node.grid
        on: dict[str, Tensor | None] = {"weight": exact, "scale": scale, "offset": offset}

        def run(q: Tensor) -> Tensor:
            if q.device != exact.device:
                on.update({k: v.to(q.device) if v is not None else None for k, v in on.items()})
            w, s, b = on["weight"], on["scale"], on["offset"]
            assert w is not None
            assert s is not None
            exact_type = torch.float64 if q.device.type != "cpu" else dtype
            acc = accumulate(node, (q - grid.zero_point).to(exact_type), w.to(exact_type))
            if out is not None:
                return _channels_last(requantize(acc, s, b, out))
            return fused_multiply_add(acc.to(torch.float32), s, b)

        return run

    def keep_grid(self, op: Function, name: str, grid: QParams) -> Function:
        if name == "aten.relu.default":
            return lambda q: q.clamp(min=grid.zero_point)
        if name == "aten.pad.default":
            return lambda q, pad, *_: F.pad(q, pad, value=float(grid.zero_point))
        return op


def _channels_last(x: Tensor) -> Tensor:
    """The layout in which INT8 kernels compute; float ops then see the same strides on every engine."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
