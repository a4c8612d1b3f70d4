"""The QNNPACK engine: ARM phones and boards; it runs, with the same results, on x86 too.

Its fixed-point requantization may differ from `reference` by one step. It never saturates in 16 bits.
"""

from __future__ import annotations

from typing import Any

from qat.quantization.engines.engine import Engine, Int8Model
from qat.quantization.engines.lowering import lower
from qat.quantization.engines.native import NativeKernels, missing, quantized_engine
from qat.quantization.program import Int8Program


class Qnnpack(Engine):
    """PyTorch's QNNPACK kernels."""

    name = "qnnpack"

    def refusal(self, program: Int8Program) -> str | None:
        floats = [node.layer or node.name for node in program.layers() if node.grid is None]
        if floats:
            return (
                f"its linear kernel returns integers only, and {len(floats)} linear layers of this program return float "
                f"({', '.join(floats[:3])}); prepare the model with backend='qnnpack', whose programs run on fbgemm and x86 too"
            )
        return missing(self.name)

    def lower(self, program: Int8Program) -> Int8Model:
        with quantized_engine(self.name):
            model = lower(program, NativeKernels(), engine=self.name)
        return _QnnpackModel(model)


class _QnnpackModel(Int8Model):
    """Selects the engine around every call, because some kernels ask for it at run time."""

    def __init__(self, model: Int8Model) -> None:
        super().__init__(
            model.program, engine=model.engine, steps=model._steps, slots=model._slots, integers=model._integers
        )

    def forward(self, *inputs: Any) -> Any:
        with quantized_engine("qnnpack"):
            return super().forward(*inputs)

    def watch(self, *inputs: Any) -> Any:
        with quantized_engine("qnnpack"):
            return super().watch(*inputs)
