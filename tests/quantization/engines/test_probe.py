"""The probe: it finds what kernels do, on kernels whose behaviour is known because it is written here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qat.quantization.engines import ENGINES, lower, saturation
from qat.quantization.engines.native import quantized_engine
from qat.quantization.engines.native_engine import NativeEngine
from qat.quantization.engines.probe import Saturation, probe
from qat.quantization.layouts import ChannelsLast, Kind, Layout, PerTap
from qat.quantization.program.program import Node
from qat.quantization.qparams import QParams
from tests.quantization.layers import LAYERS
from tests.quantization.sixteen_bits import saturating_sum

NATIVE = [name for name, engine in ENGINES.items() if isinstance(engine, NativeEngine)]


class EmulatedKernels:
    """Kernels that add in 16 bits in the layout that `choose` names for a weight; None adds exactly."""

    def __init__(self, choose: Callable[[Node, Tensor], Layout | None]) -> None:
        self.choose = choose

    def layer(self, node: Node, tensors: list[Tensor | None], grid: QParams) -> Any:
        weight = tensors[0]
        assert weight is not None
        groups = node.args[7] if len(node.args) > 4 else 1
        layout, per_group = self.choose(node, weight), weight.shape[0] // groups

        def run(x: Tensor) -> Tensor:
            columns = x.long().reshape(groups, weight.shape[1], -1)  # the input is just as large as the kernel
            sums = []
            for i in range(groups):
                rows = weight[i * per_group : (i + 1) * per_group]
                under = columns[i].reshape(1, *weight.shape[1:])
                exact = (under.flatten(1) * rows.flatten(1).long()).sum(1)[None]
                sums.append(exact if layout is None else saturating_sum(under, rows, layout))
            total = torch.cat(sums, 1)
            if node.grid is None:
                return total.float()
            middle = (total / node.grid.scale).round().to(torch.uint8).reshape(1, -1, *[1] * (weight.dim() - 2))
            around = [n for k in reversed(weight.shape[2:]) for n in (k // 2, k // 2)]
            return F.pad(middle, around)

        return run

    def from_integers(self, integers: Tensor, grid: QParams) -> Tensor:
        return integers

    def integers(self, q: Tensor) -> Tensor:
        return q


def test_probe_finds_that_nothing_saturates() -> None:
    found = probe(EmulatedKernels(lambda node, weight: None), floats=True)
    assert found == Saturation(layouts=dict.fromkeys(Kind, ()))
    assert set(found.words().values()) == {"none"}


def test_probe_finds_neighbours_of_every_kind() -> None:
    found = probe(EmulatedKernels(lambda node, weight: ChannelsLast()), floats=True)
    assert found.layouts[Kind.LINEAR] == found.layouts[Kind.GROUPED][:1] == found.layouts[Kind.DEPTHWISE] == (ChannelsLast(),)
    assert ChannelsLast() in found.layouts[Kind.DENSE]
    assert found.unexpected == ()


def test_probe_tells_rows_from_taps() -> None:
    found = probe(EmulatedKernels(lambda node, weight: PerTap()), floats=False)
    assert PerTap() in found.layouts[Kind.DENSE]
    assert found.layouts[Kind.DEPTHWISE] == ()  # one channel: every tap stands alone
    assert found.words()["dense"] == "neighbours, neighbours within a tap"


def test_probe_finds_a_kind_that_saturates_in_one_shape_alone() -> None:
    found = probe(EmulatedKernels(lambda n, w: ChannelsLast() if w.shape[1:] == (1, 5, 5) else None), floats=False)
    assert {kind for kind, layouts in found.layouts.items() if layouts} == {Kind.DEPTHWISE}


def test_probe_reports_pairs_of_no_layout() -> None:
    class Shifted:
        def rows(self, weight: Tensor) -> Tensor:
            return F.pad(weight.flatten(1), (1, 1 - weight[0].numel() % 2))  # positions 1 and 2, 3 and 4, ...

    found = probe(EmulatedKernels(lambda node, weight: Shifted() if node.op == "int8.linear" else None), floats=False)
    assert found.layouts[Kind.LINEAR] == ()
    assert found.unexpected[0] == "linear (28, 8): positions 1 and 2"


@pytest.mark.parametrize("name", NATIVE)
def test_probe_knows_the_kernels_of_this_machine(name: str) -> None:
    engine = ENGINES[name]
    assert isinstance(engine, NativeEngine)
    found = engine.saturation()
    assert found.unexpected == ()
    assert found is engine.saturation(), "it is probed once"
    if name == "qnnpack":
        assert not any(found.layouts.values())


def test_probe_leaves_the_selected_engine_alone() -> None:
    before = torch.backends.quantized.engine
    saturation()
    assert torch.backends.quantized.engine == before


@contextmanager
def defaults(device: str, dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_device(device)
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_device("cpu")
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("device", "dtype"), [("meta", torch.float32), ("cpu", torch.float64), ("cpu", torch.bfloat16)])
def test_probe_does_not_depend_on_defaults_of_the_process(device: str, dtype: torch.dtype) -> None:
    expected = saturation()
    with defaults(device, dtype):
        for name in NATIVE:
            engine = ENGINES[name]
            assert isinstance(engine, NativeEngine)
            with quantized_engine(name):
                assert probe(engine.kernels(), floats=engine.kernels.quantizes_inside).words() == expected[name]


def test_engines_can_be_probed_and_packed_in_several_threads() -> None:
    """Which engine is selected is one setting of the process; nobody reads another's kernels for their own."""
    expected, before = saturation(), torch.backends.quantized.engine
    layer = LAYERS["depthwise 3x3"]
    program, x = layer.program(target="any"), layer.inputs(2)
    exact = lower(program, "reference")(x)
    step = float(next(program.layers()).grid.scale)  # type: ignore[union-attr]

    def work(name: str) -> bool:
        engine = ENGINES[name]
        assert isinstance(engine, NativeEngine)
        with quantized_engine(name):
            found = probe(engine.kernels(), floats=engine.kernels.quantizes_inside).words()
        difference = float((lower(program, name)(x) - exact).abs().max())
        return found == expected[name] and difference <= (0.0 if name == "fbgemm" else 1.01 * step)

    with ThreadPoolExecutor(len(NATIVE)) as pool:
        assert all(pool.map(work, NATIVE * 6))
    assert torch.backends.quantized.engine == before


def test_worst_names_channel_and_sum() -> None:
    found = Saturation(layouts={**dict.fromkeys(Kind, ()), Kind.LINEAR: (ChannelsLast(),)})
    weight = torch.tensor([[64, 64, 1], [3, 0, 127], [-127, -2, 5]], dtype=torch.int8)
    assert found.worst(Kind.LINEAR, weight) == (2, 129)
    assert found.worst(Kind.LINEAR, weight[:2]) is None
    assert found.worst(Kind.DENSE, weight) is None
