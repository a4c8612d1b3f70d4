"""Layouts: which two weights become neighbours, written out position by position."""

from __future__ import annotations

import pytest
import torch

from qat.quantization.engines.probe import neighbours
from qat.quantization.layouts import ChannelsLast, Framed, Kind, Layout, PerTap, frame_of, kind_of, layouts_of, pair_sums


def positions(layout: Layout, *shape: int) -> list[str]:
    """The row of one output channel: tap and input channel as `t1c0`, `-` for what is filled up."""
    inputs, taps = shape[0], torch.Size(shape[1:]).numel()
    names = ["-", *(f"t{t}c{c}" for c in range(inputs) for t in range(taps))]
    (row,) = layout.rows(torch.arange(1, inputs * taps + 1).reshape(1, *shape)).tolist()
    return [names[i] for i in row]


def test_channels_last_goes_through_taps_and_then_channels() -> None:
    assert positions(ChannelsLast(), 3, 1, 3) == "t0c0 t0c1 t0c2 t1c0 t1c1 t1c2 t2c0 t2c1 t2c2 -".split()
    assert positions(ChannelsLast(), 5) == "t0c0 t0c1 t0c2 t0c3 t0c4 -".split()


def test_per_tap_starts_every_tap_at_an_even_position() -> None:
    assert positions(PerTap(), 3, 1, 2) == "t0c0 t0c1 t0c2 - t1c0 t1c1 t1c2 -".split()


def test_framed_moves_the_taps_of_a_row_apart() -> None:
    """3x3 in the middle of 5x5: rows of five, so that rows start at odd and even positions in turn."""
    row = positions(Framed(size=5, top=1, left=1), 1, 3, 3)
    assert row == "- - - - - - t0c0 t1c0 t2c0 - - t3c0 t4c0 t5c0 - - t6c0 t7c0 t8c0 - - - - - - -".split()
    assert len(row) == 26
    assert neighbours(Framed(size=5, top=1, left=1), (1, 3, 3)) == {(0, 1), (4, 5), (6, 7)}
    assert neighbours(ChannelsLast(), (1, 3, 3)) == {(0, 1), (2, 3), (4, 5), (6, 7)}


def test_per_tap_differs_for_odd_channels_and_several_taps_alone() -> None:
    for shape in ((4, 3, 3), (5, 1, 1), (6,), (5,)):
        assert neighbours(PerTap(), shape) == neighbours(ChannelsLast(), shape)
    assert neighbours(PerTap(), (3, 3, 3)) != neighbours(ChannelsLast(), (3, 3, 3))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8, 4, 3, 3), [ChannelsLast()]),
        ((8, 3, 3, 3), [ChannelsLast(), PerTap()]),
        ((8, 3, 5), [ChannelsLast(), PerTap()]),
        ((8, 1, 3, 3), [ChannelsLast()]),
        ((8, 7), [ChannelsLast()]),
    ],
)
def test_layouts_of_a_weight(shape: tuple[int, ...], expected: list[Layout]) -> None:
    assert list(layouts_of(torch.empty(shape))) == expected


def test_pair_sums_match_the_definition() -> None:
    weight = torch.randint(-127, 128, (6, 3, 2, 2), generator=torch.Generator().manual_seed(0))
    for layout in (ChannelsLast(), PerTap()):
        for channel, found in zip(weight, pair_sums(weight, layout), strict=True):
            flat = channel.flatten().tolist()
            sums = [flat[a] + flat[b] for a, b in neighbours(layout, (3, 2, 2))]
            alone = [] if layout == ChannelsLast() else channel[2].flatten().tolist()  # the third channel stands beside a zero
            assert int(found) == max(abs(value) for value in [*sums, *alone])


@pytest.mark.parametrize(
    ("op", "shape", "groups", "kind"),
    [
        ("int8.linear", (8, 4), 1, Kind.LINEAR),
        ("aten.linear.default", (8, 1), 1, Kind.LINEAR),
        ("int8.conv2d", (8, 1, 3, 3), 1, Kind.DENSE),
        ("int8.conv2d", (8, 2, 3, 3), 4, Kind.GROUPED),
        ("int8.conv2d", (8, 1, 3, 3), 8, Kind.DEPTHWISE),
        ("aten.conv1d.default", (16, 1, 3), 8, Kind.DEPTHWISE),
    ],
)
def test_kinds(op: str, shape: tuple[int, ...], groups: int, kind: Kind) -> None:
    assert kind_of(op, torch.empty(shape), groups) is kind


@pytest.mark.parametrize(
    ("shape", "pads", "expected"),
    [
        ((8, 1, 3, 3), [0, 1, 0, 1], Framed(size=5, top=2, left=2)),
        ((8, 1, 3, 3), [0, 1, 1, 1], Framed(size=5, top=1, left=2)),
        ((8, 1, 5, 5), [1, 2, 1, 2], Framed(size=7, top=2, left=2)),
        ((8, 1, 3, 3), [1, 1, 1, 1], None),  # a frame of three is the kernel itself
        ((8, 1, 7, 7), [0, 6, 0, 6], None),  # no frame is large enough
        ((8, 1, 3, 3), [-1, 1, 0, 1], None),
        ((8, 2, 3, 3), [0, 1, 0, 1], None),
    ],
)
def test_frame_of_a_padded_layer(shape: tuple[int, ...], pads: list[int], expected: Framed | None) -> None:
    assert frame_of(torch.empty(shape), groups=8, dilation=(1, 1), pads=pads) == expected
    assert frame_of(torch.empty(shape), groups=8, dilation=(2, 2), pads=pads) is None
    assert frame_of(torch.empty(shape), groups=8, dilation=(1, 1), pads=()) is None


def test_framed_layer_computes_the_same() -> None:
    weight, x = torch.randn(4, 1, 3, 3), torch.randn(2, 4, 8, 8)
    frame = frame_of(weight, groups=4, dilation=(1, 1), pads=[0, 1, 0, 1])
    assert frame is not None
    plain = torch.nn.functional.conv2d(torch.nn.functional.pad(x, [0, 1, 0, 1]), weight, stride=2, groups=4)
    framed = torch.nn.functional.conv2d(x, frame.frame(weight), stride=2, padding=2, groups=4)
    torch.testing.assert_close(framed, plain)
