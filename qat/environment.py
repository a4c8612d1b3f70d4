"""What numbers were measured on: the machine, its instruction set, the versions of libraries, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

X86 = ("x86_64", "amd64", "i386", "i686")

#: Libraries beside torch whose versions a report states.
LIBRARIES = ("pytorch-lightning", "timm", "transformers", "torchvision")


def isa() -> str:
    """The instruction set that INT8 kernels are chosen by: `avx512_vnni`, `avx512`, `avx2`, `neon`, ...

    A name for people and records: what the kernels do with it is asked by `quantization/engines/probe.py`.
    """
    if platform.machine().lower() not in X86:
        return "neon" if platform.machine().lower() in ("aarch64", "arm64") else platform.machine().lower()
    if torch.cpu._is_vnni_supported():
        return "avx512_vnni"
    return torch.backends.cpu.get_cpu_capability().lower()


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where numbers were measured.

    Args:
        isa: see `isa`.
        packages: library -> its version, see `LIBRARIES`.
        commit: of the source tree; None for an installed wheel.
        saturation: engine -> kind of layer -> which pairs of weights its kernels add in 16 bits there, in words.
    """

    cpu: str
    threads: int
    isa: str
    torch: str
    cores: int | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    python: str = ""
    commit: str | None = None
    saturation: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def look_into_current_folder_() -> None:
    """Find the user's own modules there: an installed command does not look into the current folder, as `python -m` does."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def environment(saturation: Mapping[str, Mapping[str, str]] | None = None) -> Environment:
    """Of this process."""
    return Environment(
        cpu=_cpu(),
        threads=torch.get_num_threads(),
        isa=isa(),
        torch=torch.__version__,
        cores=os.cpu_count(),
        packages={name: found for name in LIBRARIES if (found := _version(name)) is not None},
        python=platform.python_version(),
        commit=commit(),
        saturation=saturation or {},
    )


def commit() -> str | None:
    """The commit of the source tree; None for an installed wheel."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
