"""What this CPU can do, and which programs could saturate on it."""

from __future__ import annotations

import platform

import pytest
import torch

from qat.errors import EngineError
from qat.quantization.engines import cpu, lower
from tests.quantization.programs import layer_program


def test_isa_is_one_word() -> None:
    assert cpu.isa()
    assert " " not in cpu.isa()


@pytest.mark.parametrize(("machine", "expected"), [("aarch64", "neon"), ("arm64", "neon"), ("ppc64le", "ppc64le")])
def test_isa_of_other_machines(machine: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert cpu.isa() == expected


@pytest.mark.parametrize(("vnni", "expected"), [(True, "avx512_vnni"), (False, "avx2")])
def test_isa_of_x86_machines(vnni: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert cpu.isa() == expected


@pytest.mark.parametrize(
    ("target", "isa", "runs"),
    [
        ("avx2", "avx2", True),
        ("avx2", "avx512", True),
        ("avx2", "avx512_vnni", True),
        ("vnni", "avx512_vnni", True),
        ("vnni", "avx512", False),
        ("vnni", "avx2", False),
        ("arm", "avx2", False),
        ("arm", "avx512_vnni", False),
    ],
)
@pytest.mark.parametrize("engine", ["fbgemm", "x86"])
def test_x86_engines_refuse_what_could_saturate(
    engine: str, target: str, isa: str, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "isa", lambda: isa)
    program = layer_program("int8.linear", torch.ones(4, 8, dtype=torch.int8), channels=8, target=target)
    if runs:
        lower(program, engine)
        return
    with pytest.raises(EngineError) as error:
        lower(program, engine)
    assert repr(target) in str(error.value)
    assert isa in str(error.value)
    assert "target=avx2" in str(error.value)


@pytest.mark.parametrize("engine", ["reference", "qnnpack"])
@pytest.mark.parametrize("target", ["vnni", "avx2", "arm"])
def test_engines_that_widen_run_every_target(engine: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "isa", lambda: "avx2")
    program = layer_program("int8.linear", torch.ones(4, 8, dtype=torch.int8), channels=8, target=target, backend="qnnpack")
    assert lower(program, engine).engine == engine
