"""Every engine against `reference`: each op, each kind of layer, at the limits of 8 bits; then whole networks.

`fbgemm` equals the reference bit for bit. `x86` and `qnnpack` round in another order: given the same input they are at most
one step away.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qat.quantization.engines import ENGINES, lower
from qat.quantization.program.program import Int8Program, leaves
from tests.quantization.layers import LAYERS
from tests.quantization.networks import CASES, converted
from tests.quantization.op_programs import OPS, op_inputs, op_program

#: engine -> (grid steps, share of outputs of one layer) that it may differ by, given the same input.
ALLOWED = {"reference": (0, 0.0), "fbgemm": (0, 0.0), "x86": (1, 1e-3), "qnnpack": (1, 0.03)}

ENGINE = pytest.mark.parametrize("engine", ENGINES)


def test_every_engine_has_its_bound() -> None:
    assert ENGINES
    assert ALLOWED.keys() == ENGINES.keys()


def target_of(engine: str) -> str:
    return "any" if engine == "qnnpack" else "x86"


def flat(value: Any) -> list[Tensor]:
    """A node's tensors: one, those of a split, or a size as a tensor."""
    return [torch.as_tensor(leaf) for leaf in leaves(value)]


def assert_faithful(program: Int8Program, engine: str, *inputs: Tensor) -> None:
    """Every node within the engine's bound, given the reference's inputs; end to end equal where the bound is zero."""
    reference, other = lower(program, "reference"), lower(program, engine)
    result, expected = reference.watch(*inputs)
    _, got = other.watch(*inputs, replay=expected)
    steps, share = ALLOWED[engine]
    grids = program.grids()
    assert got.keys() <= expected.keys()
    assert got
    for name, value in got.items():
        for a, b in zip(flat(value), flat(expected[name]), strict=True):
            assert a.shape == b.shape, name
            if name not in grids:
                assert torch.equal(a, b), f"{name} differs by {float((a - b).abs().max())}"
                continue
            assert a.dtype == torch.uint8
            difference = (a.int() - b.int()).abs()
            assert int(difference.max()) <= steps, f"{name} differs by {int(difference.max())} steps"
            assert float((difference > 0).float().mean()) <= share, name
    if steps == 0:
        assert torch.equal(other(*inputs), result)
        own = other.watch(*inputs)[1]
        assert all(torch.equal(a, b) for name in own for a, b in zip(flat(own[name]), flat(expected[name]), strict=True))


@ENGINE
@pytest.mark.parametrize("name", LAYERS)
def test_engine_computes_a_layer(name: str, engine: str) -> None:
    layer = LAYERS[name]
    if layer.float_output and engine == "qnnpack":
        pytest.skip("its linear layer returns a grid only")
    assert_faithful(layer.program(target=target_of(engine)), engine, layer.inputs(3))


@ENGINE
@pytest.mark.parametrize("name", OPS)
def test_engine_computes_an_op(name: str, engine: str) -> None:
    assert_faithful(op_program(name, target=target_of(engine)), engine, *op_inputs())


@ENGINE
@pytest.mark.parametrize("name", CASES)
def test_engine_computes_a_network(name: str, engine: str) -> None:
    assert_faithful(converted(name, target_of(engine)), engine, CASES[name].inputs(3, seed=11))


@ENGINE
def test_programs_reach_the_ends_of_their_grids(engine: str) -> None:
    """The zoo is only worth something if its outputs are spread over the grid and clipped at both ends."""
    for layer in LAYERS.values():
        if layer.float_output:
            continue
        seen = lower(layer.program(target=target_of(engine)), engine).watch(layer.inputs(3))[1]
        integers = next(value for name, value in seen.items() if "conv" in name or "linear" in name)
        counts = torch.bincount(integers.flatten().long(), minlength=256)
        assert counts[0] > 0 or counts[255] > 0
        assert int((counts > 0).sum()) > min(20, integers.numel() // 4)


@ENGINE
@pytest.mark.parametrize("name", ["dense 3x3", "depthwise 3x3", "grouped 8", "linear 37", "conv1d"])
@pytest.mark.parametrize("batch", [1, 3])
def test_engine_gives_each_sample_the_same_result_in_every_batch(name: str, batch: int, engine: str) -> None:
    layer = LAYERS[name]
    model = lower(layer.program(target=target_of(engine)), engine)
    x = layer.inputs(5)
    whole = model(x)
    parts = torch.cat([model(x[i : i + batch]) for i in range(0, 5, batch)])
    assert torch.equal(parts, whole)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (31, 17), (57, 33)])
@pytest.mark.parametrize("name", ["dense 1x1", "dense 3x3", "depthwise 3x3", "depthwise 5x5 stride 2", "grouped 4"])
def test_fbgemm_equals_the_reference_at_every_size(name: str, size: tuple[int, int]) -> None:
    layer = LAYERS[name]
    program = layer.program(seed=3)
    x = type(layer)(**{**vars(layer), "size": size}).inputs(2, seed=4)
    assert_faithful(program, "fbgemm", x)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 3])
def test_fbgemm_equals_the_reference_at_every_number_of_threads(threads: int, batch: int) -> None:
    torch.set_num_threads(threads)
    for name in ("dense 3x3", "depthwise 3x3", "grouped 8", "linear 1000", "linear float 1000"):
        assert_faithful(LAYERS[name].program(seed=5), "fbgemm", LAYERS[name].inputs(batch, seed=6))
    for name in ("residual", "squeeze_excite", "attention"):
        assert_faithful(converted(name), "fbgemm", CASES[name].inputs(batch, seed=12))


@pytest.mark.parametrize("seed", range(3))
def test_fbgemm_equals_the_reference_on_dense_random_layers(seed: int) -> None:
    """More outputs of the layers that networks spend their time in, at random weights over the whole range."""
    for name in ("dense 1x1", "dense 3x3", "grouped 16", "linear 1000", "linear float 1000"):
        layer = LAYERS[name]
        assert_faithful(layer.program(seed=20 + seed), "fbgemm", layer.inputs(8, seed=30 + seed))


def test_parity_bounds_can_fail() -> None:
    """Two programs that differ in one weight are told apart: the comparison sees what it is for."""
    layer = LAYERS["dense 3x3"]
    program = layer.program()
    name = next(program.layers()).args[1].name
    x = layer.inputs()
    expected = lower(program, "reference").watch(x)[1]
    assert int(program.tensors[name][0, 0, 1, 1]) != 0
    program.tensors[name][0, 0, 1, 1] = 0
    got = lower(program, "fbgemm").watch(x, replay=expected)[1]
    key = next(program.layers()).name
    assert not torch.equal(got[key], expected[key])
