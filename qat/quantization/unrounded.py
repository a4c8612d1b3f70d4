"""A prepared network run in float, whatever its switches say: what looks at tensors before they are rounded begins here."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, fx

from qat.quantization.fake_quantize import ActivationFakeQuantize, StoredFakeQuantize
from qat.quantization.graph.nodes import GraphNode
from qat.quantization.prepared import PreparedModel


class Unrounded(fx.Interpreter):
    """Runs the network of a prepared model without observing or rounding anything."""

    def __init__(self, prepared: PreparedModel) -> None:
        super().__init__(prepared.network)

    @abstractmethod
    def see(self, call: GraphNode, value: Tensor) -> None:
        """Look at a tensor that the fake quantization of `call` would round."""

    def run_node(self, n: fx.Node) -> object:
        module = self.module.get_submodule(str(n.target)) if n.op == "call_module" else None
        if not isinstance(module, ActivationFakeQuantize | StoredFakeQuantize):
            return super().run_node(n)
        value = self.fetch_args_kwargs_from_env(n)[0][0]
        if isinstance(module, ActivationFakeQuantize):
            self.see(n, value)
        return value
