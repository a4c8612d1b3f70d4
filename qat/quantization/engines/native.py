"""PyTorch's native INT8 kernels (`torch.ops.quantized`), shared by the engines that select among them.

This file and the engine files beside it are the only ones that touch `torch.ops.quantized` or a quantized dtype, which
upstream has announced to remove (pytorch#184982). Programs and artifacts hold neither.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qat.quantization.engines.cpu import isa
from qat.quantization.engines.engine import Engine, Int8Model
from qat.quantization.engines.lowering import Function, Kernels, lower
from qat.quantization.engines.padding import padded_layers, widen
from qat.quantization.engines.probe import Saturation, probe
from qat.quantization.layouts import kind_of
from qat.quantization.program import Int8Program, Node
from qat.quantization.qparams import PAIR_BOUND, QParams
from qat.quantization.targets import Target, running

#: ATen ops that PyTorch implements for quantized tensors without leaving their grid.
_ON_QUANTIZED = frozenset(
    f"aten.{name}"
    for name in """
    relu.default max_pool2d.default reshape.default flatten.using_ints permute.default transpose.int squeeze.dim
    squeeze.dims unsqueeze.default slice.Tensor select.int contiguous.default clone.default chunk.default split.Tensor
    split_with_sizes.default upsample_nearest2d.default upsample_nearest2d.vec
    """.split()
)


@contextmanager
def quantized_engine(name: str) -> Iterator[None]:
    """Select PyTorch's quantized engine for weight packing and kernel calls inside the block."""
    previous = torch.backends.quantized.engine
    with warnings.catch_warnings():
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


class NativeEngine(Engine):
    """An engine of `torch.ops.quantized`. It runs a program when no sum of its weights can saturate in the kernels of this
    machine: what the program was made for is not asked."""

    kernels: type[NativeKernels]

    def saturation(self) -> Saturation:
        """What this engine's kernels add in 16 bits here; probed once per process."""
        return _probed(self)

    def unready(self, target: Target) -> str | None:
        if self.name not in target.engines:
            return (
                f"it does not run what quantization={target.name} makes; it runs {' and '.join(running(self.name))}, and "
                f"{target.name} runs on {', '.join(target.engines)}"
            )
        if lacks := missing(self.name):
            return lacks
        found = self.saturation()
        unbounded = [kind.value for kind, layouts in found.layouts.items() if layouts and kind not in target.bounded]
        if not unbounded:
            return _unknown(self.name, found)
        return (
            f"what quantization={target.name} makes is for {target.machines}. This CPU ({isa()}) adds products of "
            f"{' and '.join(unbounded)} layers in 16 bits, and they would saturate. Take quantization=x86, which every x86 CPU "
            "runs exactly"
        )

    def refusal(self, program: Int8Program) -> str | None:
        if lacks := missing(self.name):
            return lacks
        found = self.saturation()
        if unknown := _unknown(self.name, found):
            return unknown
        for node, weight in packed_weights(program):
            groups = node.args[7] if len(node.args) > 4 else 1
            if (worst := found.worst(kind_of(node.op, weight, groups), weight)) is not None:
                channel, total = worst
                return (
                    f"layer {node.layer or node.name!r} could saturate on this CPU ({isa()}): two neighbouring weights of "
                    f"output channel {channel} add up to {total}, and their products are added in 16 bits here, where "
                    f"{PAIR_BOUND} is the most that fits. The program was made for target {program.target!r}; make it with "
                    "quantization=x86, which every x86 CPU runs exactly. A QAT checkpoint needs no training for that: "
                    "qat-export checkpoint=FILE quantization=x86 says what it costs"
                )
        return None

    def lower(self, program: Int8Program) -> Int8Model:
        with quantized_engine(self.name):
            return lower(program, self.kernels(), engine=self.name)


@cache
def _probed(engine: NativeEngine) -> Saturation:
    with quantized_engine(engine.name):
        return probe(engine.kernels(), floats=engine.kernels.quantizes_inside)


def _unknown(engine: str, found: Saturation) -> str | None:
    """Why an engine must not be used at all; None when it adds as this version of qat knows it."""
    if not found.unexpected:
        return None
    return (
        f"its kernels in PyTorch {torch.__version__} on this CPU ({isa()}) add other products in 16 bits than this qat knows: "
        f"{'; '.join(found.unexpected[:3])}. Sums could be wrong. Use engine 'reference', and please report this line"
    )


def packed_weights(program: Int8Program) -> Iterator[tuple[Node, Tensor]]:
    """Every layer with its int8 weight as a kernel packs it; layers that may take over a padding come a second time, framed.

    Merged siblings and groups (`siblings.py`, `groups.py`) keep every row and its neighbours, so they need no mention.
    """
    padded = padded_layers(program)
    for node in program.layers():
        weight = program.tensors[node.args[1].name]
        yield node, weight
        if node.name in padded and (wide := widen(node, padded[node.name], weight)) is not None:
            yield node, wide.weight


class NativeKernels(Kernels):
    """Integers are quint8 tensors; 4-d ones in channels-last layout, in which the kernels compute."""

    def quantize(self, grid: QParams) -> Function:
        scale, zero_point = grid.scale, grid.zero_point
        # PyTorch warns at the first quantized tensor of a process: let that be here, inside `quantized_engine`.
        torch.quantize_per_tensor(torch.zeros(1), scale, zero_point, torch.quint8)

        def quantize(x: Tensor) -> Tensor:
            if x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            return torch.quantize_per_tensor(x, scale, zero_point, torch.quint8)

        return quantize

    def dequantize(self, grid: QParams) -> Function:
        return torch.dequantize

    def integers(self, q: Any) -> Tensor:
        """The integers as a view of the same memory; `int_repr` would copy them, in one thread."""
        return torch.empty(0, dtype=torch.uint8).set_(q.untyped_storage(), q.storage_offset(), q.shape, q.stride())

    def from_integers(self, integers: Tensor, grid: QParams) -> Any:
        return torch._make_per_tensor_quantized_tensor(integers, grid.scale, grid.zero_point)

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

        def layer(q: Any) -> Any:
            if wide.fits(q.shape[-2], q.shape[-1]):
                return run(q, packed, scale, zero_point)
            return plain(self.pad(q, amounts, grid))

        return layer

    def embedding(self, weight: Tensor, scale: Tensor) -> Function:
        """PyTorch's byte embedding: (u8 - 128) * s, exact with short scales; three times as fast as plain ATen."""
        shifted = (weight.to(torch.int16) + 128).to(torch.uint8)
        table = torch._make_per_channel_quantized_tensor(shifted, scale, torch.full(scale.shape, 128.0), 0)
        packed = torch.ops.quantized.embedding_bag_prepack(table)
        return lambda indices: torch.ops.quantized.embedding_byte(packed, indices)

    def pad(self, q: Tensor, pad: list[int], grid: QParams) -> Tensor:
        """Zero padding by copying integers into a frame of zero points; no kernel for it exists."""
        padded = F.pad(self.integers(q), pad, value=grid.zero_point)
        if q.dim() == 4:
            padded = padded.contiguous(memory_format=torch.channels_last)
        result: Tensor = self.from_integers(padded, grid)
        return result

    def linear(self, packed: Any, grid: QParams, out: QParams | None) -> Function:
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


def pack_linear(weight: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
    return torch.ops.quantized.linear_prepack(per_channel(weight, scale), bias)
