"""The name of what this machine's CPU can do. A name for people and records: what its kernels do is asked by `probe.py`."""

from __future__ import annotations

import platform

import torch

X86 = ("x86_64", "amd64", "i386", "i686")


def isa() -> str:
    """The instruction set that INT8 kernels are chosen by: `avx512_vnni`, `avx512`, `avx2`, `neon`, ..."""
    if platform.machine().lower() not in X86:
        return "neon" if platform.machine().lower() in ("aarch64", "arm64") else platform.machine().lower()
    if torch.cpu._is_vnni_supported():
        return "avx512_vnni"
    return torch.backends.cpu.get_cpu_capability().lower()
