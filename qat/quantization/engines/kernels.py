"""What an engine's kernel set provides, and what is built from it.

`Kernels` says what an engine must have (quantize, dequantize, layers, shape ops) and makes everything else of it: an
element-wise op on integers is `quantize(op(dequantize(q)))`, which short scales make exactly reproducible. An engine overrides
what it has a faster exact kernel for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.quantization.engines.reuse import fits
from qat.quantization.program.ops import ELEMENTWISE
from qat.quantization.program.program import Node
from qat.quantization.qparams import QParams

Function = Callable[..., Any]


class Kernels(ABC):
    """An engine's kernels. `q` is a tensor that holds integers on a grid in the engine's own representation."""

    #: Whether a linear layer without an output grid takes its input as float and quantizes it inside.
    quantizes_inside = False

    def running(self) -> AbstractContextManager[None]:
        """What must hold while a model of these kernels runs."""
        return nullcontext()

    @abstractmethod
    def quantize(self, grid: QParams) -> Function:
        """float tensor -> q."""

    @abstractmethod
    def dequantize(self, grid: QParams) -> Function:
        """q -> float tensor, exact."""

    @abstractmethod
    def integers(self, q: Tensor) -> Tensor:
        """q -> uint8 tensor."""

    @abstractmethod
    def from_integers(self, integers: Tensor, grid: QParams) -> Tensor:
        """uint8 tensor -> q."""

    @abstractmethod
    def layer(self, node: Node, tensors: list[Tensor | None], grid: QParams) -> Function:
        """Convolution or linear layer; `tensors` are weight, weight_scale and bias, `grid` is the input's."""

    @abstractmethod
    def keep_grid(self, op: Function, name: str, grid: QParams) -> Function:
        """A shape or order-preserving ATen op on q."""

    def padded_layer(self, node: Node, pad: Node, tensors: list[Tensor | None], grid: QParams) -> Function | None:
        """A convolution together with the zero padding in front of it; None where an engine gains nothing by it."""
        return None

    def embedding(self, weight: Tensor, scale: Tensor) -> Function:
        """Indices of any shape -> float rows, one dimension more; exact. An index outside the table raises."""
        return lambda indices: F.embedding(indices, weight).to(torch.float32).mul_(scale[indices].unsqueeze(-1))

    def centred(self, grid: QParams) -> Function:
        """q -> q - zero_point as float32: integers whose sums are exact."""
        zero_point = grid.zero_point
        return lambda q: self.integers(q).to(torch.float32).sub_(zero_point)

    def read(self, grid: QParams | None) -> Function:
        """q -> float tensor; float passes through."""
        return _same if grid is None else self.dequantize(grid)

    def write(self, grid: QParams | None) -> Function:
        """float tensor -> q; without a grid it stays float."""
        return _same if grid is None else self.quantize(grid)

    def unary(self, op: str, grid: QParams | None, out: QParams | None, *, scratch: bool) -> Function:
        """An activation; in place where its float input is scratch: freshly dequantized, or read by nothing else."""
        record, read, write = ELEMENTWISE[op], self.read(grid), self.write(out)
        function = record.in_place if scratch or grid is not None else record.function
        return lambda q, *rest: write(function(read(q), *rest))

    def add(self, a: QParams, b: QParams, out: QParams) -> Function:
        da, db, quantize = self.dequantize(a), self.dequantize(b), self.quantize(out)
        return lambda x, y: quantize(da(x) + db(y))

    def mul(self, a: QParams | None, b: QParams | None, out: QParams | None, *, scratch: bool) -> Function:
        """A product, broadcast; into the first factor where that is scratch and has the result's shape."""
        read_a, read_b, write = self.read(a), self.read(b), self.write(out)
        reuse = scratch or a is not None

        def mul(x: Tensor, y: Tensor) -> object:
            x, y = read_a(x), read_b(y)
            return write(x.mul_(y) if reuse and fits(x, y) else x * y)

        return mul

    def cat(self, grids: list[QParams], out: QParams) -> Function:
        dequantizes, quantize = [self.dequantize(grid) for grid in grids], self.quantize(out)
        return lambda qs, dim=0: quantize(torch.cat([d(q) for d, q in zip(dequantizes, qs, strict=True)], dim))

    def mean(self, grid: QParams | None, out: QParams | None) -> Function:
        """(sum q - n z) * (scale / n) over n = height * width pixels; from float, the plain mean.

        The integer sums are exact in float32 up to 65,000 pixels, whatever the order of addition.
        """
        write = self.write(out)
        if grid is None:
            return lambda x, dims, keepdim=False: write(x.mean(dims, keepdim))
        scale, zero_point = grid.scale, grid.zero_point

        def mean(q: Tensor, dims: list[int], keepdim: bool = False) -> object:
            x = self.integers(q).to(torch.float32)
            count = x.shape[-1] * x.shape[-2]
            return write(x.sum(dims, keepdim).sub_(count * zero_point).mul_(scale / count))

        return mean

    def adaptive_avg_pool2d(self, grid: QParams | None, out: QParams | None) -> Function:
        mean, pool = self.mean(grid, out), self.pool(F.adaptive_avg_pool2d, grid, out)
        return lambda q, size: mean(q, [2, 3], True) if size in (1, [1], [1, 1], (1, 1)) else pool(q, size)

    def avg_pool2d(self, grid: QParams | None, out: QParams | None) -> Function:
        return self.pool(torch.ops.aten.avg_pool2d, grid, out)

    def pool(self, function: Function, grid: QParams | None, out: QParams | None) -> Function:
        """A windowed mean: of exact integers, scaled once, or of float."""
        write = self.write(out)
        if grid is None:
            return lambda x, *rest: write(function(x, *rest))
        centred, scale = self.centred(grid), grid.scale
        return lambda q, *rest: write(function(centred(q), *rest).mul_(scale))


def _same(value: object) -> object:
    return value
