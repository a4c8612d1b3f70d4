"""Engines by name. A new engine is one file beside this one and one line here."""

from __future__ import annotations

from qat.errors import EngineError, near
from qat.quantization.engines.engine import Engine, Int8Model
from qat.quantization.engines.fbgemm import Fbgemm
from qat.quantization.engines.qnnpack import Qnnpack
from qat.quantization.engines.reference import Reference
from qat.quantization.engines.x86 import X86
from qat.quantization.program import Int8Program

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (Reference(), Fbgemm(), Qnnpack(), X86())}

__all__ = ["ENGINES", "Engine", "Int8Model", "lower"]


def lower(program: Int8Program, engine: str = "fbgemm") -> Int8Model:
    """Bind a program to an engine's kernels.

    Raises:
        EngineError: unknown engine, or one that cannot run this program on this machine; the message says why.
    """
    if engine not in ENGINES:
        raise EngineError(f"unknown engine {engine!r}.{near(engine, ENGINES)}")
    refusal = ENGINES[engine].refusal(program)
    if refusal is not None:
        raise EngineError(f"engine {engine!r} cannot run this program: {refusal}")
    return ENGINES[engine].lower(program)
