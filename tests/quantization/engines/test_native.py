"""PyTorch's native kernels behind one door: the engine is selected and restored, and what is missing is said."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from qat.errors import EngineError
from qat.quantization.engines import ENGINES, lower
from qat.quantization.engines.native import NativeKernels, missing, per_channel, quantized_engine
from tests.quantization.networks import converted
from tests.quantization.programs import INPUT_GRID, extreme_input


def test_quantized_engine_is_restored() -> None:
    before = torch.backends.quantized.engine
    with quantized_engine("qnnpack"):
        assert torch.backends.quantized.engine == "qnnpack"
    assert torch.backends.quantized.engine == before
    with pytest.raises(KeyError), quantized_engine("qnnpack"):
        raise KeyError
    assert torch.backends.quantized.engine == before


def test_quantized_engine_keeps_other_warnings() -> None:
    with pytest.warns(UserWarning, match="something else"), quantized_engine("fbgemm"):
        warnings.warn("something else", UserWarning, stacklevel=1)


@pytest.mark.parametrize("name", sorted(ENGINES.keys() - {"reference"}))
def test_missing_engine_is_refused_with_what_there_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing(name) is None
    other = "qnnpack" if name != "qnnpack" else "fbgemm"
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", [other])
    with pytest.raises(EngineError, match=f"has no '{name}' engine; it has {other}"):
        lower(converted("conv", "any"), name)


def test_a_program_without_layers_runs_without_a_warning() -> None:
    """In a fresh interpreter with warnings as errors: the deprecation warning comes once per process."""
    code = """
from tests.quantization.op_programs import op_inputs, op_program
from qat.quantization.engines import lower
lower(op_program("hardswish"), "fbgemm")(*op_inputs())
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr


def test_integers_survive_the_round_trip() -> None:
    kernels = NativeKernels()
    x = extreme_input((3, 5, 7, 4))
    with quantized_engine("fbgemm"):
        q = kernels.quantize(INPUT_GRID)(x)
        integers = kernels.integers(q)
        assert integers.dtype == torch.uint8
        assert torch.equal(kernels.dequantize(INPUT_GRID)(q), x)
        assert torch.equal(kernels.integers(kernels.from_integers(integers, INPUT_GRID)), integers)


def test_per_channel_holds_the_very_integers_and_scales() -> None:
    weight = torch.randint(-127, 128, (6, 3, 3, 3), dtype=torch.int8)
    scale = torch.rand(6) + 0.1
    with quantized_engine("fbgemm"):
        packed = per_channel(weight, scale)
        assert torch.equal(packed.int_repr(), weight)
        assert torch.equal(packed.q_per_channel_scales().float(), scale)
        assert packed.q_per_channel_zero_points().tolist() == [0] * 6
