"""Linear layers in other words: which become linear layers, and that they compute what they did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qat.quantization.graph.capture import capture
from tests.quantization.networks import Inline, graph_ops

X = torch.randn(4, 9, 16, generator=torch.Generator().manual_seed(0))


class Own(nn.Module):
    """A function of an input, a matrix (16, 24) and a vector (24)."""

    def __init__(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.b, self.function = nn.Parameter(torch.randn(16, 24)), nn.Parameter(torch.randn(24)), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.w, self.b)


#: Form -> whether the vector becomes the bias of the layer.
LINEAR: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], bool]] = {
    "F.linear": (lambda x, w, b: F.linear(x, w.t(), b), True),
    "x @ w": (lambda x, w, b: x @ w, False),
    "x @ w + b": (lambda x, w, b: x @ w + b, True),
    "b + x @ w": (lambda x, w, b: b + x @ w, True),
    "mm": (lambda x, w, b: torch.mm(x.flatten(0, 1), w), False),
    "addmm": (lambda x, w, b: torch.addmm(b, x.flatten(0, 1), w), True),
    "einsum": (lambda x, w, b: torch.einsum("bld,dh->blh", x, w) + b, True),
    "einsum, other way round": (lambda x, w, b: torch.einsum("bld,hd->blh", x, w.t()), False),
    "scaled matrix": (lambda x, w, b: x @ (w / w.norm(dim=0)) + b.exp(), True),
    "part of a matrix": (lambda x, w, b: x @ w.chunk(2, 1)[0], False),
}

#: These are something else, or not worth a layer.
OTHERWISE: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "matrix of an input": lambda x, w, b: x @ x.transpose(1, 2),
    "matrix on the left": lambda x, w, b: w.t() @ x.transpose(1, 2),
    "batch of matrices": lambda x, w, b: x @ w.expand(x.shape[0], 16, 24),
    "addmm with a factor": lambda x, w, b: torch.addmm(b, x.flatten(0, 1), w, alpha=2),
    "einsum of all": lambda x, w, b: torch.einsum("bld,dh->h", x, w),
    "einsum that turns": lambda x, w, b: torch.einsum("bld,dh->bhl", x, w),
    "einsum over the middle": lambda x, w, b: torch.einsum("bld,lh->bdh", x, w[:9]),
    "einsum of pairs": lambda x, w, b: torch.einsum("bld,dh->bldh", x, w),
}


def ops_of(model: nn.Module) -> list[str]:
    """Ops of the captured graph, which computes what the model computes."""
    module = capture(model.eval(), (X,)).module
    with torch.no_grad():
        torch.testing.assert_close(module(X), model(X), rtol=1e-4, atol=1e-5)
    return graph_ops(module)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_layer_in_other_words_becomes_one(name: str) -> None:
    function, takes_bias = LINEAR[name]
    ops = ops_of(Own(function))
    assert ops.count("aten.linear.default") == 1
    assert not {"aten.matmul.default", "aten.mm.default", "aten.addmm.default", "aten.einsum.default"} & {*ops}
    assert ("aten.add.Tensor" not in ops) if takes_bias else True


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_is_no_linear_layer_stays_as_it_is(name: str) -> None:
    assert "aten.linear.default" not in ops_of(Own(OTHERWISE[name]))


def test_layer_that_has_a_bias_or_another_reader_keeps_the_sum() -> None:
    torch.manual_seed(0)
    biased = Inline(lambda m, x: m.layer(x) + m.other.bias, layer=nn.Linear(16, 24), other=nn.Linear(2, 24))
    assert "aten.add.Tensor" in ops_of(biased)

    def both(x: Tensor, w: Tensor, b: Tensor) -> Any:
        y = x @ w
        return (y + b) * y

    assert "aten.add.Tensor" in ops_of(Own(both))


def test_convolution_of_gpt_2_is_a_linear_layer() -> None:
    torch.manual_seed(0)
    assert ops_of(Conv1D(24, 16)).count("aten.linear.default") == 1  # type: ignore[no-untyped-call]


def test_gradients_are_those_of_the_model() -> None:
    model = Own(LINEAR["x @ w + b"][0])
    module = capture(model, (X,)).module
    for network in (model, module):
        network(X).square().sum().backward()
    theirs = dict(model.named_parameters())
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-3)
