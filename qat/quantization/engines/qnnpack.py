"""The QNNPACK engine: ARM phones and boards; it runs, with the same results, on x86 too.

Its fixed-point requantization may differ from `reference` by one step. It never saturates in 16 bits.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from qat.quantization.engines.engine import Engine, Int8Model
from qat.quantization.engines.lowering import Function, Kernels, lower
from qat.quantization.engines.native import NativeKernels, missing, quantized_engine
from qat.quantization.program import Int8Program
from qat.quantization.qparams import QParams


class Qnnpack(Engine):
    """PyTorch's QNNPACK kernels."""

    name = "qnnpack"

    def refusal(self, program: Int8Program) -> str | None:
        floats = [node.layer or node.name for node in program.layers() if node.grid is None]
        if floats:
            return (
                f"its linear kernel returns integers only, and {len(floats)} linear layers of this program return float "
                f"({', '.join(floats[:3])}); prepare the model with backend='qnnpack' (and target='vnni' or 'avx2', to run "
                "it on fbgemm and x86, too)"
            )
        return missing(self.name)

    def lower(self, program: Int8Program) -> Int8Model:
        with quantized_engine(self.name):
            return lower(program, _QnnpackKernels(), engine=self.name)


class _QnnpackKernels(NativeKernels):
    def running(self) -> AbstractContextManager[None]:
        """Some kernels ask which engine is selected when they run."""
        return quantized_engine("qnnpack")

    def add(self, a: QParams, b: QParams, out: QParams) -> Function:
        """QNNPACK's add takes scale ratios in [2^-14, 2^8) only; outside, dequantize, add and quantize are used."""
        if all(2**-14 <= grid.scale / out.scale < 2**8 for grid in (a, b)):
            return super().add(a, b, out)
        return Kernels.add(self, a, b, out)
