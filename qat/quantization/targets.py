"""Targets: what a deployed network may count on. One word for a kernel table, the layers whose sums are kept within 16 bits,
and the engines that run it.

| target     | machines                       | table   | bounded in 16 bits | engines              |
|------------|--------------------------------|---------|--------------------|----------------------|
| `x86`      | every x86 CPU (the default)    | FBGEMM  | every layer        | fbgemm, x86          |
| `x86_vnni` | x86 CPUs with AVX512-VNNI      | FBGEMM  | depthwise layers   | fbgemm, x86          |
| `arm`      | ARM phones and boards          | QNNPACK | none               | qnnpack              |
| `any`      | every x86 CPU and ARM          | QNNPACK | every layer        | fbgemm, x86, qnnpack |

Training guarantees what a target promises. It is no permission: whether a program may run is decided where it is loaded, from
its weights and from what the kernels there do (`engines/native_engine.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from qat.errors import ConfigError, near
from qat.quantization.kernel_table import FBGEMM, QNNPACK, Kernel
from qat.quantization.layouts import Framed, Kind, Layout, kind_of, layouts_of

ENGINES_OF_X86 = ("fbgemm", "x86")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a network is trained for.

    Args:
        machines: in words.
        kernels: the kernel table.
        bounded: kinds of layers in which no sum of two products may leave 16 bits.
        engines: that run what is made for it; `reference` always does.
    """

    name: str
    machines: str
    kernels: tuple[Kernel, ...]
    bounded: frozenset[Kind]
    engines: tuple[str, ...]

    def kernel(self, op: str) -> Kernel | None:
        """The row of an ATen op."""
        return next((kernel for kernel in self.kernels if kernel.op == op), None)

    def layouts(self, op: str, weight: Tensor, groups: int, frame: Framed | None = None) -> tuple[Layout, ...]:
        """The layouts of a layer in which neighbouring weights are bounded.

        Args:
            weight: shape (C, I, *kernel).
            frame: see `layouts_of`.
        """
        return layouts_of(weight, frame) if kind_of(op, weight, groups) in self.bounded else ()


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(name="x86", machines="every x86 CPU", kernels=FBGEMM, bounded=frozenset(Kind), engines=ENGINES_OF_X86),
        Target(
            name="x86_vnni",
            machines="x86 CPUs with AVX512-VNNI",
            kernels=FBGEMM,
            bounded=frozenset({Kind.DEPTHWISE}),  # measured: FBGEMM's depthwise kernels saturate there too
            engines=ENGINES_OF_X86,
        ),
        Target(name="arm", machines="ARM phones and boards", kernels=QNNPACK, bounded=frozenset(), engines=("qnnpack",)),
        Target(
            name="any",
            machines="every x86 CPU and ARM",
            kernels=QNNPACK,
            bounded=frozenset(Kind),
            engines=(*ENGINES_OF_X86, "qnnpack"),
        ),
    )
}

#: What an earlier qat called them: a backend, a target, or a file of conf/quantization.
_EARLIER = {
    "vnni": "x86_vnni",
    "avx2": "x86",
    "fbgemm": "x86_vnni (or x86, the default, which every x86 CPU runs)",
    "fbgemm_avx2": "x86",
    "portable": "any",
    "qnnpack": "arm (or any, which x86 CPUs run as well)",
}


def get_target(name: str) -> Target:
    """A target by name; `ConfigError` when there is none, naming what it is called now."""
    if name not in TARGETS:
        raise ConfigError(f"unknown target {name!r}.{renamed(name) or near(str(name), TARGETS)}")
    return TARGETS[name]


def renamed(name: str) -> str | None:
    """What `name` is called now, in words; None when it was never a name."""
    return f" It is now called {_EARLIER[name]}. Allowed: {', '.join(TARGETS)}." if name in _EARLIER else None


def running(engine: str) -> Iterable[str]:
    """The targets whose networks an engine runs."""
    return (target.name for target in TARGETS.values() if engine in target.engines)
