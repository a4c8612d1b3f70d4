"""What numbers were measured on."""

from __future__ import annotations

import os
import platform

import pytest
import torch

from qat import environment


def test_isa_is_one_word() -> None:
    assert environment.isa()
    assert " " not in environment.isa()


@pytest.mark.parametrize(("machine", "expected"), [("aarch64", "neon"), ("arm64", "neon"), ("ppc64le", "ppc64le")])
def test_isa_of_other_machines(machine: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert environment.isa() == expected


@pytest.mark.parametrize(("vnni", "expected"), [(True, "avx512_vnni"), (False, "avx2")])
def test_isa_of_x86_machines(vnni: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert environment.isa() == expected


def test_environment_says_on_what_it_was_measured() -> None:
    found = environment.environment()
    assert (found.torch, found.threads, found.cores) == (torch.__version__, torch.get_num_threads(), os.cpu_count())
    assert all((found.cpu, found.isa, found.python))
