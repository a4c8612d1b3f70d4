"""The probe: which products do the kernels of this machine add in 16 bits?

Names of instruction sets do not answer that: FBGEMM's depthwise kernels saturate on machines with VNNI too, PyTorch's `x86`
takes FBGEMM for some layers and oneDNN for others, and both choose anew with every release. So the kernels are asked. For each
kind of layer a small one is run whose output channels hold two weights of 127 each, at every pair of positions, and whose
inputs are all 255:

    exact            255 * 127 + 255 * 127 = 64770
    added in 16 bits                 2^15 - 1 = 32767

It takes milliseconds, once per process and engine. A pair that no layout of `layouts.py` knows is an engine that this version
of qat must not use: it is refused, with the words to report it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import torch
from torch import Tensor

from qat.quantization.layouts import Kind, Layout, kind_of, layouts_of, pair_sums
from qat.quantization.program.program import Node, Ref
from qat.quantization.qparams import ACTIVATION_HIGH, PAIR_BOUND, WEIGHT_HIGH, QParams

#: u8 inputs as they are, and outputs in steps of 256: 64770 becomes 253 and 32767 becomes 128.
_IN, _OUT = QParams(scale=1.0, zero_point=0), QParams(scale=256.0, zero_point=0)
_EXACT = 2 * ACTIVATION_HIGH * WEIGHT_HIGH


class LayerKernels(Protocol):
    """What is probed of an engine: how it binds a layer."""

    def layer(self, node: Node, tensors: list[Tensor | None], grid: QParams) -> Callable[..., Tensor]: ...

    def from_integers(self, integers: Tensor, grid: QParams) -> Tensor: ...

    def integers(self, q: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Saturation:
    """Which pairs of weights an engine's kernels add in 16 bits on this machine.

    Args:
        layouts: for each kind of layer the layouts whose neighbours saturate; empty where nothing does.
        unexpected: pairs that belong to no layout, in words.
    """

    layouts: Mapping[Kind, tuple[Layout, ...]]
    unexpected: tuple[str, ...] = ()

    def worst(self, kind: Kind, weight: Tensor) -> tuple[int, int] | None:
        """The output channel with the largest sum of neighbours, and that sum, where it does not fit into 16 bits.

        Args:
            weight: int8 as it is packed, shape (C, I, *kernel).
        """
        for layout in self.layouts[kind]:
            sums = pair_sums(weight.to(torch.int16), layout)
            if int(sums.max()) > PAIR_BOUND:
                return int(sums.argmax()), int(sums.max())
        return None

    def words(self) -> dict[str, str]:
        """Per kind of layer, what was found, for reports."""
        return {kind.value: ", ".join(map(str, found)) or "none" for kind, found in self.layouts.items()}


@dataclass(frozen=True)
class _Sample:
    """A small layer; its output channels are as many as there are pairs of positions.

    Args:
        channels: inputs per group.
        outputs: per group; None takes all pairs in one group.
        least: groups at least: PyTorch takes FBGEMM instead of oneDNN beyond 100.
        floats: a linear layer that takes and returns float.
    """

    op: str
    channels: int
    kernel: tuple[int, ...] = ()
    outputs: int | None = None
    least: int = 1
    floats: bool = False


_SAMPLES = (
    *(_Sample("int8.linear", features, floats=floats) for features in (8, 7) for floats in (False, True)),
    _Sample("int8.conv2d", 8, (1, 1)),
    _Sample("int8.conv2d", 4, (3, 3)),
    _Sample("int8.conv2d", 3, (3, 3)),
    _Sample("int8.conv1d", 4, (3,)),
    *(_Sample("int8.conv2d", n, (3, 3), outputs=n) for n in (2, 4, 8)),
    *(_Sample("int8.conv2d", n, (3, 3), outputs=16) for n in (3, 4)),
    *(_Sample("int8.conv2d", 1, (k, k), outputs=n, least=g) for k, n, g in ((3, 1, 40), (3, 1, 104), (3, 2, 40), (3, 2, 104))),
    *(_Sample("int8.conv2d", 1, (k, k), outputs=1) for k in (5, 7)),
)


def probe(kernels: LayerKernels, *, floats: bool) -> Saturation:
    """Run the small layers and read off which pairs saturate.

    Args:
        kernels: of one engine, which must be selected.
        floats: whether its linear layers may take and return float.
    """
    layouts: dict[Kind, dict[Layout, None]] = {kind: {} for kind in Kind}
    unexpected: list[str] = []
    for sample in _SAMPLES:
        if sample.floats and not floats:
            continue
        with torch.no_grad(), torch.device("cpu"):  # whatever the caller's default is
            weight, pairs, groups = _weight(sample)
            sums = _sums(kernels, sample, weight, groups)
        kind = kind_of(sample.op, weight, groups)
        found = {pair for pair, total in zip(pairs, sums, strict=True) if total != _EXACT}
        for layout in layouts_of(weight):
            if known := found & neighbours(layout, weight.shape[1:]):
                layouts[kind][layout] = None
                found -= known
        unexpected += [f"{kind.value} {tuple(weight.shape)}: positions {a} and {b}" for a, b in sorted(found)]
    return Saturation(layouts={kind: tuple(found) for kind, found in layouts.items()}, unexpected=tuple(unexpected))


def neighbours(layout: Layout, shape: tuple[int, ...]) -> set[tuple[int, int]]:
    """The pairs that a layout forms, as positions in the contiguous weight of one channel.

    Args:
        shape: (I, *kernel).
    """
    (row,) = layout.rows(torch.arange(1, math.prod(shape) + 1, device="cpu").reshape(1, *shape)).tolist()
    return {(min(a, b) - 1, max(a, b) - 1) for a, b in zip(row[0::2], row[1::2], strict=True) if a and b}


def _weight(sample: _Sample) -> tuple[Tensor, list[tuple[int, int]], int]:
    """int8 weights, the pair of positions of each output channel, and the number of groups."""
    terms = sample.channels * math.prod(sample.kernel)
    pairs = list(combinations(range(terms), 2))
    per_group = sample.outputs or len(pairs)
    groups = max(math.ceil(len(pairs) / per_group), sample.least)
    groups += -groups % 8 if groups > 1 else 0  # FBGEMM has fast kernels for groups in eights
    pairs = list(_repeated(pairs, groups * per_group))
    weight = torch.zeros(len(pairs), terms, dtype=torch.int8)
    weight[torch.arange(len(pairs))[:, None], torch.tensor(pairs)] = WEIGHT_HIGH
    return weight.reshape(len(pairs), sample.channels, *sample.kernel), pairs, groups


def _sums(kernels: LayerKernels, sample: _Sample, weight: Tensor, groups: int) -> list[int]:
    """What the kernel adds up for each output channel, where all taps are inside of the image: 64770, or less."""
    dims = len(sample.kernel)
    geometry = ((1,) * dims, tuple((k - 1) // 2 for k in sample.kernel), (1,) * dims, groups) if dims else ()
    grid = None if sample.floats else _OUT
    node = Node(name="probe", op=sample.op, args=(Ref("x"), None, None, None, *geometry), grid=grid)
    run = kernels.layer(node, [weight, torch.ones(len(weight), dtype=torch.float32), None], _IN)
    x = torch.full((1, sample.channels * groups, *sample.kernel), ACTIVATION_HIGH, dtype=torch.uint8)
    if sample.floats:
        return [round(value) for value in run(x.float()).flatten().tolist()]
    if dims == 2:
        x = x.contiguous(memory_format=torch.channels_last)
    y = kernels.integers(run(kernels.from_integers(x, _IN)))
    middle = y[0].reshape(len(weight), -1)[:, math.prod(sample.kernel) // 2]  # of odd sizes
    return [_EXACT if value == round(_EXACT / _OUT.scale) else value for value in middle.tolist()]


def _repeated(pairs: list[tuple[int, int]], count: int) -> Iterator[tuple[int, int]]:
    return (pairs[i % len(pairs)] for i in range(count))
