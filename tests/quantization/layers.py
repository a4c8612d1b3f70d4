"""Convolutions and linear layers of every kind, as programs of one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qat.quantization.layouts import Layout, frame_of
from qat.quantization.program.program import Int8Program
from qat.quantization.targets import get_target
from tests.quantization.programs import INPUT_GRID, extreme_input, extreme_weight, grid, layer_program


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
