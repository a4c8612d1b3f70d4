"""Engines by name. A new engine is one file beside this one and one line here."""

from __future__ import annotations

from collections.abc import Sequence

from qat.errors import ConfigError, EngineError, near
from qat.quantization.engines.engine import Engine, Int8Model
from qat.quantization.engines.fbgemm import Fbgemm
from qat.quantization.engines.native import missing
from qat.quantization.engines.native_engine import NativeEngine
from qat.quantization.engines.qnnpack import Qnnpack
from qat.quantization.engines.reference import Reference
from qat.quantization.engines.x86 import X86
from qat.quantization.program.program import Int8Program
from qat.quantization.targets import get_target

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (Reference(), Fbgemm(), Qnnpack(), X86())}

__all__ = ["ENGINES", "Engine", "Int8Model", "check_engines", "get_engine", "lower", "saturation"]


def check_engines(engines: Sequence[str], target: str) -> None:
    """Refuse in milliseconds what cannot end well: engines that do not exist, or could not run what is made for `target` here.

    Raises:
        ConfigError: no engine, or an unknown target.
        EngineError: an unknown engine, or one that cannot be used; the message says why and what to do.
    """
    made_for = get_target(target)
    if not engines:
        raise ConfigError("engines is empty; name at least one, for example engines=[fbgemm]")
    for engine in engines:
        if why := get_engine(engine).unready(made_for):
            raise EngineError(f"engine {engine!r} cannot be used in this run: {why}")


def saturation() -> dict[str, dict[str, str]]:
    """Which pairs of weights each engine that is here adds in 16 bits on this machine, per kind of layer, in words."""
    native = (engine for engine in ENGINES.values() if isinstance(engine, NativeEngine))
    return {engine.name: engine.saturation().words() for engine in native if missing(engine.name) is None}


def get_engine(name: str) -> Engine:
    """An engine by name; `EngineError` when there is none."""
    if name not in ENGINES:
        raise EngineError(f"unknown engine {name!r}.{near(name, ENGINES)}")
    return ENGINES[name]


def lower(program: Int8Program, engine: str = "fbgemm") -> Int8Model:
    """Bind a program to an engine's kernels.

    Raises:
        EngineError: unknown engine, or one that cannot run this program on this machine; the message says why.
    """
    found = get_engine(engine)
    refusal = found.refusal(program)
    if refusal is not None:
        raise EngineError(f"engine {engine!r} cannot run this program: {refusal}")
    return found.bind(program)
