"""qat: quantization-aware training down to true INT8 on CPU kernels.

The library is plain PyTorch; Lightning, Hydra, timm and transformers are only imported by the training flow.
"""

from __future__ import annotations

from qat.deploy.artifact import load, save_artifact, verify
from qat.deploy.detector import load_detector
from qat.quantization.analysis.coverage import coverage
from qat.quantization.analysis.parity import engine_parity, simulation_parity
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import lower
from qat.quantization.graph.capture import capture
from qat.quantization.prepare import PreparedModel, prepare
from qat.quantization.program.program import Int8Program
from qat.quantization.program.storage import read_manifest
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
    "load",
    "load_detector",
    "lower",
    "prepare",
    "read_manifest",
    "save_artifact",
    "simulation_parity",
    "verify",
]
