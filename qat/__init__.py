"""qat: quantization-aware training down to true INT8 on CPU kernels.

The library is plain PyTorch; Lightning, Hydra, timm and transformers are only imported by the training flow. Names are imported
when they are first asked for, so that a command that is misspelt says so at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qat.deploy.artifact import load, save_artifact, verify
    from qat.deploy.detector import load_detector
    from qat.quantization.analysis.coverage import coverage
    from qat.quantization.analysis.latency import latency
    from qat.quantization.analysis.parity import engine_parity, simulation_parity
    from qat.quantization.calibrate import calibrate
    from qat.quantization.convert import convert
    from qat.quantization.engines import lower
    from qat.quantization.graph.capture import capture
    from qat.quantization.prepare import prepare
    from qat.quantization.prepared import PreparedModel
    from qat.quantization.program.program import Int8Program
    from qat.quantization.program.storage import read_manifest, save
    from qat.quantization.schedule import QATSchedule

__version__ = "0.1.0"

__all__ = [
    "Int8Program",
    "PreparedModel",
    "QATSchedule",
    "calibrate",
    "capture",
    "convert",
    "coverage",
    "engine_parity",
    "latency",
    "load",
    "load_detector",
    "lower",
    "prepare",
    "read_manifest",
    "save",
    "save_artifact",
    "simulation_parity",
    "verify",
]

#: Public name -> the module that has it.
_HOMES = {
    "Int8Program": "qat.quantization.program.program",
    "PreparedModel": "qat.quantization.prepared",
    "QATSchedule": "qat.quantization.schedule",
    "calibrate": "qat.quantization.calibrate",
    "capture": "qat.quantization.graph.capture",
    "convert": "qat.quantization.convert",
    "coverage": "qat.quantization.analysis.coverage",
    "engine_parity": "qat.quantization.analysis.parity",
    "latency": "qat.quantization.analysis.latency",
    "load": "qat.deploy.artifact",
    "load_detector": "qat.deploy.detector",
    "lower": "qat.quantization.engines",
    "prepare": "qat.quantization.prepare",
    "read_manifest": "qat.quantization.program.storage",
    "save": "qat.quantization.program.storage",
    "save_artifact": "qat.deploy.artifact",
    "simulation_parity": "qat.quantization.analysis.parity",
    "verify": "qat.deploy.artifact",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qat' has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
