"""Whether a prepared model can be converted: found out in seconds, before it is trained for hours."""

from __future__ import annotations

import torch

from qat.errors import ConvertError, ProgramError
from qat.quantization.convert import Builder
from qat.quantization.graph.nodes import GraphNode, stored_name
from qat.quantization.prepared import PreparedModel
from qat.quantization.program.program import TensorRef
from qat.quantization.qparams import QParams


def check_convertible(prepared: PreparedModel) -> None:
    """Write the program with weights and grids that mean nothing.

    Raises:
        ConvertError: the model holds something a program cannot.
    """
    builder = _DryBuilder(prepared, {name: QParams(scale=1.0, zero_point=0) for name, _ in prepared.fake_quantizes()})
    with torch.no_grad():
        for node in prepared.network.graph.nodes:
            builder.visit(node)
    try:
        builder.finish()
    except ProgramError as error:
        raise ConvertError(f"the model cannot become an INT8 program: {error}") from error


class _DryBuilder(Builder):
    """Weights of zeros: rounding them takes its time."""

    def _stored(self, quantizer: GraphNode, weight: GraphNode) -> tuple[TensorRef, TensorRef]:
        shape, name = self.values[weight.name].shape, stored_name(weight)
        integers = torch.zeros(1, dtype=torch.int8).expand(shape)
        return self._tensor(name, integers), self._tensor(f"{name}_scale", torch.ones(shape[0]))
