"""The name of what this CPU can do."""

from __future__ import annotations

import platform

import pytest
import torch

from qat.quantization.engines import cpu


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
