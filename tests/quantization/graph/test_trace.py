"""One trace serves every state of the weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from qat.errors import CaptureError
from qat.quantization.graph.capture import capture, trace
from tests.quantization.networks import CASES, Case, ConvNet, Inline


def test_capture_gives_the_same_graph_whatever_the_layout_of_the_weights() -> None:
    """Training moves weights to channels-last; a checkpoint must load into a model that never was."""
    model = Inline(lambda m, x: m.conv(x).flatten(2).transpose(1, 2).reshape(-1, 4), conv=nn.Conv2d(3, 4, 1)).eval()
    x = torch.randn(2, 3, 6, 6)
    plain, trained = (
        [node.format_node() for node in capture(network, (x,)).module.graph.nodes]
        for network in (model, copy.deepcopy(model).to(memory_format=torch.channels_last))
    )
    assert plain == trained


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_was_traced_before_training_takes_the_trained_weights(case: Case) -> None:
    model, x = case.model(), case.inputs()
    traced = trace(model, (x,))
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.mul_(1.1).add_(0.01 * torch.rand_like(tensor))
    again, fresh = traced.captured(model), capture(model, (x,))
    assert [n.format_node() for n in again.module.graph.nodes] == [n.format_node() for n in fresh.module.graph.nodes]
    assert again.inputs == fresh.inputs
    state, expected = again.module.state_dict(), fresh.module.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def test_another_model_than_was_traced_is_refused() -> None:
    traced = trace(ConvNet(), (torch.randn(2, 3, 8, 8),))
    with pytest.raises(CaptureError, match="differs from the model"):
        traced.captured(nn.Sequential(ConvNet(), nn.Softmax(-1)))
