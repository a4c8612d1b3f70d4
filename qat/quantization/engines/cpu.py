"""What this machine's CPU can do, as far as INT8 kernels care."""

from __future__ import annotations

import platform

import torch

X86 = ("x86_64", "amd64", "i386", "i686")


def isa() -> str:
    """The instruction set that decides how INT8 kernels add: `avx512_vnni`, `avx512`, `avx2`, `neon`, ..."""
    if platform.machine().lower() not in X86:
        return "neon" if platform.machine().lower() in ("aarch64", "arm64") else platform.machine().lower()
    if torch.cpu._is_vnni_supported():
        return "avx512_vnni"
    return torch.backends.cpu.get_cpu_capability().lower()


def saturation_refusal(target: str) -> str | None:
    """Why a program for `target` could saturate in 16 bits on this x86 CPU; None when it cannot."""
    here = isa()
    if target == "avx2" or (target == "vnni" and here == "avx512_vnni"):
        return None
    return (
        f"the artifact was made for target {target!r} and this CPU ({here}) would saturate in 16-bit sums; export it with "
        "target=avx2, which every x86 CPU runs exactly"
        + ("" if here != "avx512_vnni" else ", or with target=vnni, which this one runs exactly")
    )
