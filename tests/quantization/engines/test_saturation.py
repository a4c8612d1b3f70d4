"""16-bit saturation is impossible by construction: the formula, and the kernels that would do it without."""

from __future__ import annotations

import pytest

from qat.quantization.backend import TARGETS
from qat.quantization.engines import cpu, lower
from qat.quantization.program import Int8Program, Node
from tests.quantization.networks import CASES, converted
from tests.quantization.programs import LAYERS, Layer

vnni = pytest.mark.skipif(cpu.isa() != "avx512_vnni", reason="measured for FBGEMM's kernels on VNNI machines")


def largest_pair_sum(program: Int8Program, node: Node) -> int:
    """255 * (sum of the two largest |w| of a channel): what two products added in 16 bits can reach."""
    weight = program.tensors[node.args[1].name].flatten(1).long().abs()
    return 255 * int(weight.topk(min(2, weight.shape[1])).values.sum(1).max())


def is_depthwise(program: Int8Program, node: Node) -> bool:
    weight = program.tensors[node.args[1].name]
    return node.op != "int8.linear" and weight.shape[1] == 1 and node.args[7] > 1


@pytest.mark.parametrize("name", CASES)
def test_no_depthwise_layer_of_a_vnni_program_can_saturate(name: str) -> None:
    program = converted(name)
    assert program.target == "vnni"
    for node in program.layers():
        if is_depthwise(program, node):
            assert largest_pair_sum(program, node) < 2**15


def test_there_are_depthwise_layers_to_check() -> None:
    programs = [converted(name) for name in CASES]
    assert sum(is_depthwise(p, node) for p in programs for node in p.layers()) >= 3


@pytest.mark.parametrize("name", CASES)
def test_no_layer_of_an_avx2_program_can_saturate(name: str) -> None:
    program = converted(name, "fbgemm", "avx2")
    assert list(program.layers())
    for node in program.layers():
        assert largest_pair_sum(program, node) < 2**15


def test_the_check_fails_without_the_pair_bound() -> None:
    """The same layers prepared for a target that widens before it adds do exceed 16 bits."""
    program = converted("squeeze_excite", "qnnpack", "arm")
    depthwise = [node for node in program.layers() if is_depthwise(program, node)]
    assert depthwise
    assert all(largest_pair_sum(program, node) >= 2**15 for node in depthwise)


def wrong_outputs(layer: Layer, *, pair_bound: bool) -> int:
    """Outputs of FBGEMM that differ from exact arithmetic, on full-range inputs and weights."""
    program, x = layer.program(pair_bound=pair_bound), layer.inputs(4)
    (node,) = program.layers()
    exact, got = (lower(program, engine).watch(x)[1][node.name] for engine in ("reference", "fbgemm"))
    return int((exact != got).sum())


#: Layers whose FBGEMM kernels add pairs in 16 bits on VNNI machines: depthwise, 2-d, not dilated, channels in eights.
SATURATING = [
    "depthwise 3x3",
    "depthwise 3x3, zero point 0",
    "depthwise 3x3 stride 2",
    "depthwise 5x5",
    "depthwise 5x5 stride 2",
    "depthwise 7x7",
    "depthwise with multiplier 2",
]


@vnni
@pytest.mark.parametrize("name", SATURATING)
def test_fbgemm_depthwise_kernels_saturate_without_the_pair_bound_only(name: str) -> None:
    assert wrong_outputs(LAYERS[name], pair_bound=False) > 0
    assert wrong_outputs(LAYERS[name], pair_bound=True) == 0


@vnni
@pytest.mark.parametrize("name", [name for name in LAYERS if name not in SATURATING and "float" not in name])
def test_fbgemm_other_kernels_do_not_saturate_at_full_range(name: str) -> None:
    """Grouped, dense, 1-d and linear kernels add in 32 bits on VNNI machines: no pair bound is needed there."""
    assert wrong_outputs(LAYERS[name], pair_bound=False) == 0


@vnni
def test_every_saturating_layer_is_bounded_on_vnni() -> None:
    assert TARGETS["vnni"].value == "depthwise"
    assert all(LAYERS[name].depthwise for name in SATURATING)
