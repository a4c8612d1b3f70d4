"""Small readings of an fx graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qat.quantization.graph.capture import capture
from qat.quantization.graph.nodes import fx_value, layer_name, replace_
from tests.quantization.networks import CASES, Inline, captured


def test_layer_name_is_the_innermost_module() -> None:
    names = {layer_name(node) for node in captured("conv").module.graph.nodes if node.op == "call_function"}
    assert {"stem.0", "stem.2", "body.0", "body.2", "pool", "drop", "head", ""} == names


def test_layer_name_of_the_model_itself_is_empty() -> None:
    graph = capture(Inline(lambda m, x: x * 2), (torch.randn(2, 3),)).module.graph
    assert {layer_name(node) for node in graph.nodes} == {""}


def test_branches_that_nothing_reads_are_dropped_with_their_dropouts() -> None:
    def forward(m: Inline, x: torch.Tensor) -> torch.Tensor:
        m.drop(m.dead(x))  # type: ignore[operator]
        y: torch.Tensor = m.layer(x)  # type: ignore[operator]
        return y

    model = Inline(forward, dead=nn.Linear(3, 3), drop=nn.Dropout(), layer=nn.Linear(3, 3))
    graph = capture(model, torch.randn(2, 3)).module.graph
    assert [str(node.target) for node in graph.nodes if node.op == "call_function"] == ["aten.linear.default"]


def test_fx_value_reads_parameters_by_their_dotted_name() -> None:
    module = captured("conv").module
    model = CASES["conv"].model()
    (node,) = [n for n in module.graph.nodes if n.op == "get_attr" and n.target == "head.weight"]
    assert torch.equal(fx_value(module, node), model.get_parameter("head.weight"))


def test_replace_gives_every_user_the_new_value() -> None:
    def function(m: Inline, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        return y + y.exp()

    module = capture(Inline(function, unused=nn.Identity()), (torch.randn(2, 3),)).module
    (tanh,) = [n for n in module.graph.nodes if n.target is torch.ops.aten.tanh.default]
    replace_(module.graph, tanh, tanh.args[0])
    module.recompile()
    x = torch.randn(4, 3)
    assert torch.equal(module(x), x + x.exp())
