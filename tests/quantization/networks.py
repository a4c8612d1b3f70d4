"""Tiny networks, one per thing that captured graphs are made of."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.fake_quantize import ActivationFakeQuantize, FakeQuantize
from qat.quantization.graph.capture import Captured, capture
from qat.quantization.observer import Observer
from qat.quantization.prepare import prepare
from qat.quantization.prepared import PreparedModel
from qat.quantization.program.program import Int8Program


def randomize_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms as after training: no mean is 0, no variance 1, one gamma is 0 and one negative."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.num_features, generator=generator) * 0.2)
                module.weight[0] = 0.0
                module.weight[-1] = -0.7
    return model


class ConvNet(nn.Module):
    """conv-bn-relu, conv-bn-relu, pool, linear: the plainest net there is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.drop(self.pool(self.body(self.stem(x))).flatten(1)))
        return y


class Residual(nn.Module):
    """Two convolutions and an addition, as in ResNet, with max pooling and a strided shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv1 = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.conv2 = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.short = nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu_(self.stem(x)))
        x = torch.relu(self.conv2(self.conv1(x)) + self.short(x))
        y: Tensor = self.head(x.mean((2, 3)))
        return y


class SqueezeExcite(nn.Module):
    """MobileNetV3: depthwise convolution, hardswish, a gate from a hardsigmoid; silu and sigmoid in the second block."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 5, stride=2, padding=2, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6()
        )
        self.squeeze = nn.Conv2d(16, 8, 1)
        self.excite = nn.Conv2d(8, 16, 1)
        self.depthwise2 = nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.gate = nn.Conv2d(32, 32, 1)
        self.project = nn.Sequential(nn.Conv2d(32, 24, 1, bias=False), nn.BatchNorm2d(24))
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.expand(x))
        x = x * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        x = F.silu(self.depthwise2(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        y: Tensor = self.head(F.adaptive_avg_pool2d(self.project(x), 1).flatten(1))
        return y


class Branches(nn.Module):
    """Inception and U-Net: concatenation, chunk, pads, leaky relu, nearest upsampling, every kind of pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(4, 8, 3, padding=2, dilation=2)
        self.right = nn.Conv2d(4, 8, 1)
        self.pooled = nn.Conv2d(8, 8, 3, groups=2, padding=1)
        self.low = nn.Conv2d(24, 12, 3, stride=2, padding=1)
        self.up = nn.Conv2d(12, 12, 1)
        self.last = nn.Conv2d(36, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.stem(x), 0.1)
        a, b = x.chunk(2, dim=1)
        c = self.pooled(F.avg_pool2d(x, 3, stride=1, padding=1))
        x = torch.cat([self.left(a), F.relu(self.right(b)), c], dim=1)
        y = F.relu(self.low(F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=1)))
        y = F.interpolate(self.up(y), scale_factor=2.0, mode="nearest")
        z: Tensor = self.last(torch.cat([x, y], dim=1))
        return z


class Attention(nn.Module):
    """One ViT block: the residual stream, layer norm, attention and GELU are float, the linears integer."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 5, width) * 0.1)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.heads = heads
        self.head = nn.Linear(width, 37)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        q, k, v = self.qkv(self.norm1(x)).reshape(x.shape[0], 5, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 5, -1)
        x = x + self.out(y)
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        z: Tensor = self.head(x[:, 0])
        return z


class Sequence1d(nn.Module):
    """Audio: conv1d, depthwise conv1d, batch norm 1d, linear layers with relu between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(3, 16, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(16), nn.ReLU())
        self.depthwise = nn.Conv1d(16, 16, 3, padding=2, dilation=2, groups=16)
        self.point = nn.Sequential(nn.Conv1d(16, 8, 1), nn.ReLU6())
        self.fc = nn.Sequential(nn.Linear(8, 33), nn.BatchNorm1d(33), nn.ReLU(), nn.Linear(33, 7))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.point(self.depthwise(self.stem(x))).mean(2))
        return y


@dataclass(frozen=True)
class Case:
    """A network with what it takes."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]

    def model(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        return randomize_(self.build(), seed).eval()

    def inputs(self, batch: int = 2, seed: int = 1) -> Tensor:
        return torch.randn(batch, *self.shape, generator=torch.Generator().manual_seed(seed))


CASES: dict[str, Case] = {
    "conv": Case(ConvNet, (3, 9, 7)),
    "residual": Case(Residual, (3, 33, 29)),
    "squeeze_excite": Case(SqueezeExcite, (3, 11, 13)),
    "branches": Case(Branches, (3, 10, 14)),
    "attention": Case(Attention, (3, 8, 8)),
    "sequence": Case(Sequence1d, (3, 37)),
}


@functools.cache
def captured(name: str) -> Captured:
    """A case's graph; shared between tests, so read it only."""
    return capture(CASES[name].model(), (CASES[name].inputs(),))


@functools.cache
def _calibrated(name: str, target: str) -> PreparedModel:
    case = CASES[name]
    prepared = prepare(case.model(), (case.inputs(),), target=target)
    calibrate(prepared, [case.inputs(4, seed) for seed in (2, 3)])
    return prepared


def calibrated(name: str, target: str = "x86") -> PreparedModel:
    """A case prepared and calibrated on two random batches; a copy, so a test may change it."""
    return copy.deepcopy(_calibrated(name, target))


@functools.cache
def converted(name: str, target: str = "x86") -> Int8Program:
    """The program of `calibrated`; programs are values. Made for target `any`, every engine runs it on every x86 machine."""
    return convert(_calibrated(name, target))


class Inline(nn.Module):
    """A module made of one function, and the layers that it uses."""

    def __init__(self, function: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def graph_ops(module: Any, *, without: Sequence[str] = ()) -> list[str]:
    """Names of the ATen ops of a captured graph, in order."""
    names = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
    return [name for name in names if name not in without]


def observed(module: ActivationFakeQuantize) -> Observer:
    """What finds the range of a tensor."""
    assert isinstance(module, FakeQuantize)
    return module.observer
