"""Which products a kernel adds in 16 bits: the orders in which engines pack the weights of a layer.

`vpmaddubsw`, the instruction under INT8 kernels on x86 without VNNI, multiplies u8 activations with s8 weights and adds
neighbouring products in 16 bits, clamping the sum silently to [-2^15, 2^15 - 1]:

    y_i = clamp(x_2i w_2i + x_2i+1 w_2i+1),        where x in [0, 255], w in [-127, 127]

So all that matters is which two weights of an output channel become neighbours. That is their *layout*, and it was measured
for every engine (`engines/probe.py` measures it again on each machine): all pack a channel's weights in the order kernel
height, kernel width, input channel, and pair positions 2i and 2i + 1 of it, no others. What differs is where a row ends:

* `ChannelsLast`  one row per output channel: FBGEMM's dense, grouped, depthwise and linear kernels.
* `PerTap`        one row per tap of the kernel: oneDNN, where the number of input channels is odd (else the same pairs).
* `Framed`        one row, the taps moved into a frame of zeros: depthwise layers that pad by themselves, `engines/padding.py`.

A new rewriting of layers states its layout here, or what was proved for training does not hold for what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


class Kind(Enum):
    """What a kernel is chosen by, as far as sums in 16 bits are concerned."""

    LINEAR = "linear"
    DENSE = "dense"
    GROUPED = "grouped"
    DEPTHWISE = "depthwise"


def kind_of(op: str, weight: Tensor, groups: int = 1) -> Kind:
    """The kind of a layer. Depthwise is one input channel per group, whatever the number of outputs.

    Args:
        op: its ATen or program op.
        weight: shape (C, I, *kernel).
    """
    if "linear" in op:
        return Kind.LINEAR
    if groups == 1:
        return Kind.DENSE
    return Kind.DEPTHWISE if weight.shape[1] == 1 else Kind.GROUPED


class Layout(Protocol):
    """An order of packing."""

    def rows(self, weight: Tensor) -> Tensor:
        """The weights of each output channel in packed order; positions 2i and 2i + 1 are added in 16 bits.

        Args:
            weight: shape (C, I, *kernel), integers or float.

        Returns:
            Shape (C, L), L even; what was filled up is zero.
        """


@dataclass(frozen=True)
class ChannelsLast:
    """One row per output channel, in the order (kernel height, kernel width, input channel)."""

    def __str__(self) -> str:
        return "neighbours"

    def rows(self, weight: Tensor) -> Tensor:
        return _even(weight.movedim(1, -1).flatten(1))


@dataclass(frozen=True)
class PerTap:
    """The same order; every tap starts at an even position."""

    def __str__(self) -> str:
        return "neighbours within a tap"

    def rows(self, weight: Tensor) -> Tensor:
        return _even(weight.movedim(1, -1)).flatten(1)


@dataclass(frozen=True)
class Framed:
    """`ChannelsLast` of a 2-d kernel that was moved into the middle of a larger one of zeros.

    Args:
        size: height and width of the frame.
        top, left: where the kernel starts in it.
    """

    size: int
    top: int
    left: int

    def frame(self, weight: Tensor) -> Tensor:
        """Weights of shape (C, I, h, w) in their frame: (C, I, size, size)."""
        height, width = weight.shape[2:]
        right, bottom = self.size - width - self.left, self.size - height - self.top
        return F.pad(weight, (self.left, right, self.top, bottom))

    def rows(self, weight: Tensor) -> Tensor:
        return ChannelsLast().rows(self.frame(weight))


#: Sizes beyond 3 of depthwise kernels that FBGEMM is fast for; a frame has one of them.
FRAMES = (5, 7)


def frame_of(weight: Tensor, *, groups: int, dilation: Sequence[int], pads: Sequence[object]) -> Framed | None:
    """The frame in which a 2-d depthwise layer takes over the zero padding in front of it, see `engines/padding.py`.

    Args:
        weight: shape (C, 1, h, w).
        pads: what is padded left, right, on top and below.

    Returns:
        None where the layer is not depthwise, the padding is none of four constants, or no frame is large enough.
    """
    amounts = [amount for amount in pads if isinstance(amount, int) and amount >= 0]
    if len(amounts) != 4 or len(pads) != 4 or weight.dim() != 4 or set(dilation) != {1}:
        return None
    if groups != weight.shape[0] or weight.shape[1] != 1:
        return None
    left, _, top, _ = amounts
    height, width = weight.shape[2:]
    margin = max(left, width - 1 - left, top, height - 1 - top)
    if 2 * margin + 1 not in FRAMES:
        return None
    return Framed(size=2 * margin + 1, top=margin - top, left=margin - left)


def layouts_of(weight: Tensor, frame: Framed | None = None) -> tuple[Layout, ...]:
    """Every layout in which some engine packs a weight of shape (C, I, *kernel).

    Args:
        frame: of a depthwise layer behind a padding that it takes over.
    """
    odd_taps = weight.shape[1] % 2 == 1 and weight.shape[1] > 1 and weight.dim() > 2
    return (ChannelsLast(), *((PerTap(),) if odd_taps else ()), *((frame,) if frame is not None else ()))


def pair_sums(weight: Tensor, layout: Layout) -> Tensor:
    """max over pairs |w_2i + w_2i+1| of each output channel, shape (C,), in the dtype of `weight`.

    Of two weights of one sign that is |w_2i| + |w_2i+1|, what 255 times makes the largest sum. Of two of opposite sign it is
    less than the larger of the two, and rightly so: their products cannot add up.
    """
    rows = layout.rows(weight)
    return (rows[:, 0::2] + rows[:, 1::2]).abs().amax(1)


def _even(rows: Tensor) -> Tensor:
    """With a zero behind the last dimension where that is odd."""
    return F.pad(rows, (0, rows.shape[-1] % 2))
