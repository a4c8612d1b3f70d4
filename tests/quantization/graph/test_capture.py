"""Capture: the graph is the model, whatever the batch; what cannot be captured is refused with its line."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from qat.errors import CaptureError
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.graph.capture import capture, trace
from qat.quantization.prepare import prepare
from tests.quantization.networks import CASES, Case, ConvNet, Inline, graph_ops


def assert_same(got: Any, expected: Any) -> None:
    """Equal structure; numbers equal up to the rounding of folded batch norms."""
    flat_got, structure_got = pytree.tree_flatten(got)
    flat_expected, structure_expected = pytree.tree_flatten(expected)
    assert structure_got == structure_expected
    for a, b in zip(flat_got, flat_expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_capture_equals_the_model_at_every_batch_size(case: Case) -> None:
    model = case.model()
    captured = capture(model, (case.inputs(),))
    for batch in (1, 3, 7):
        x = case.inputs(batch, seed=batch)
        assert_same(captured.module(x), model(x))
    (spec,) = captured.inputs
    assert spec.dtype == torch.float32
    assert spec.shape == (None, *case.shape)


def test_capture_takes_an_example_batch_of_one() -> None:
    case = CASES["conv"]
    model = case.model()
    captured = capture(model, (case.inputs(batch=1),))
    x = case.inputs(batch=5)
    assert_same(captured.module(x), model(x))


def test_capture_leaves_the_model_untouched() -> None:
    model = CASES["conv"].model().train()
    before = copy.deepcopy(model.state_dict())
    x = CASES["conv"].inputs().requires_grad_()
    captured = capture(model, (x,))
    assert model.training
    assert all(module.training for module in model.modules())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert x.grad is None
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in captured.module.parameters())


def test_capture_computes_the_same_in_training_mode() -> None:
    case = CASES["conv"]
    captured = capture(case.model(), (case.inputs(),))
    x = case.inputs(4)
    assert torch.equal(captured.module.train()(x), captured.module.eval()(x))


def test_capture_keeps_every_weight_trainable_under_its_own_name() -> None:
    case = CASES["conv"]
    captured = capture(case.model(), (case.inputs(),))
    names = {name for name, parameter in captured.module.named_parameters() if parameter.requires_grad}
    assert names == {f"{layer}.{leaf}" for layer in ("stem.0", "body.0", "head") for leaf in ("weight", "bias")}


def test_capture_frees_the_dimensions_that_are_asked_for() -> None:
    model = Inline(lambda self, x: self.conv(x).mean(2), conv=nn.Conv1d(3, 4, 3, padding=1)).eval()
    captured = capture(model, (torch.randn(2, 3, 17),), dynamic_dims=[(0, 2)])
    assert captured.inputs[0].shape == (None, 3, None)
    x = torch.randn(5, 3, 41)
    assert_same(captured.module(x), model(x))


def test_capture_returns_the_structure_of_the_model() -> None:
    def function(self: Any, x: Tensor) -> Any:
        y = self.conv(x)
        return {"one": y, "more": (y + 1, [y * 2])}

    model = Inline(function, conv=nn.Conv2d(3, 4, 1)).eval()
    x = torch.randn(3, 3, 5, 5)
    assert_same(capture(model, (x,)).module(x), model(x))


def test_capture_takes_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.linear = nn.Embedding(11, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            y: Tensor = self.linear(self.table(ids) * mask.unsqueeze(-1))
            return y

    model = Two().eval()
    inputs = (torch.randint(0, 11, (2, 5)), torch.ones(2, 5))
    captured = capture(model, inputs)
    assert [spec.dtype for spec in captured.inputs] == [torch.int64, torch.float32]
    more = (torch.randint(0, 11, (7, 5)), torch.rand(7, 5))
    assert_same(captured.module(*more), model(*more))


# --- in-place writes ------------------------------------------------------------------------------------------------


def slice_assignment(self: Any, x: Tensor) -> Any:
    y = self.conv(x)
    y[:, 1:3] = 0.5
    return F.relu(y)


def add_to_a_view(self: Any, x: Tensor) -> Any:
    y = self.conv(x)
    y[:, 0] += 1
    return y * 2


def write_through_a_view(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = self.conv(x)
    flat = y.view(y.shape[0], -1)
    flat.mul_(3.0)
    return y, flat


def write_into_the_base(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = self.conv(x)
    first = y[:, 0]
    y.add_(1.0)
    return first, y


def write_into_a_chunk(self: Any, x: Tensor) -> Any:
    y = self.conv(x)
    a, b = y.chunk(2, 1)
    a.relu_()
    return y + torch.cat([b, a], 1)


def chain(self: Any, x: Tensor) -> Any:
    y = self.conv(x).relu_()
    z = y + 1
    y.mul_(2)
    return F.hardtanh_(z, -0.5, 1.2) + y.clamp_(0, 3)


def write_after_a_read(self: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    y = self.conv(x)
    before = y * 1.0
    y.sigmoid_()
    return before, y


def masked_write(self: Any, x: Tensor) -> Any:
    y = self.conv(x).clone()
    y.masked_fill_(y < 0, -1.0)
    return y


IN_PLACE = [
    slice_assignment,
    add_to_a_view,
    write_through_a_view,
    write_into_the_base,
    write_into_a_chunk,
    chain,
    write_after_a_read,
    masked_write,
]


@pytest.mark.parametrize("function", IN_PLACE, ids=[f.__name__ for f in IN_PLACE])
def test_capture_of_in_place_ops_equals_the_model(function: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = Inline(function, conv=nn.Conv2d(3, 4, 3)).eval()
    captured = capture(model, (torch.randn(2, 3, 6, 6),))
    for batch in (1, 3):
        x = torch.randn(batch, 3, 6, 6)
        with torch.no_grad():  # autograd forbids some of these writes
            assert_same(captured.module(x.clone()), model(x.clone()))
    assert not [op for op in graph_ops(captured.module) if op.startswith("aten.") and op.split(".")[1].endswith("_")]


# --- refusals -------------------------------------------------------------------------------------------------------


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        if float(y.sum()) > 0:  # depends on the data
            return y
        return -y


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) + torch.rand(4)
        return y


@dataclass
class Output:
    logits: Tensor


def test_capture_names_the_line_of_data_dependent_control_flow() -> None:
    with pytest.raises(CaptureError) as error:
        capture(Branching(), (torch.randn(2, 4),))
    assert "Branching cannot be captured" in str(error.value)
    assert "test_capture.py" in str(error.value)
    assert "if float(y.sum()) > 0" in str(error.value)


def test_capture_refuses_a_model_that_is_not_deterministic() -> None:
    with pytest.raises(CaptureError, match="not deterministic"):
        capture(Random(), (torch.randn(2, 4),))


def test_capture_refuses_a_dataclass_output() -> None:
    pytree.register_dataclass(Output)
    model = Inline(lambda self, x: Output(self.linear(x)), linear=nn.Linear(4, 4))
    with pytest.raises(CaptureError, match=r"returns Output.*\n?.*tuple"):
        capture(model, (torch.randn(2, 4),))


def test_capture_refuses_an_unknown_output_type() -> None:
    class Opaque:
        def __init__(self, value: Tensor) -> None:
            self.value = value

    model = Inline(lambda self, x: Opaque(self.linear(x)), linear=nn.Linear(4, 4))
    with pytest.raises(CaptureError):
        capture(model, (torch.randn(2, 4),))


def test_capture_refuses_no_inputs() -> None:
    with pytest.raises(CaptureError, match="at least one"):
        capture(ConvNet(), ())


def test_capture_refuses_inputs_of_a_wrong_shape_with_the_models_name() -> None:
    with pytest.raises(CaptureError, match="ConvNet"):
        capture(ConvNet(), (torch.randn(2, 5, 8, 8),))


def test_capture_allows_that_folding_exchanges_what_ranks_nearly_equal() -> None:
    """Detectors choose queries by score; scores that differ by a rounding may change places when a batch norm is folded."""

    def chosen(m: Any, x: Tensor) -> Tensor:
        scores = m.norm(m.layer(x)).flatten(1)
        ranks: Tensor = scores.topk(8, dim=1).indices.float()
        return ranks

    layer, norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
    nn.init.constant_(layer.weight, 0.1)  # four channels of equal scores, but for the rounding
    assert norm.running_var is not None
    norm.running_var.copy_(torch.tensor([0.7, 0.7 * (1 + 1e-7), 0.7 * (1 + 2e-7), 0.7 * (1 - 1e-7)]))
    model = Inline(chosen, layer=layer, norm=norm).eval()
    x = torch.randn(2, 3, 6, 6)
    module = capture(model, (x,)).module
    assert graph_ops(module, without=["aten.sym_size.int"])[0] == "aten.conv2d.default"
    assert not torch.equal(module(x), model(x)), "the case is none where nothing changes places"
    scores = norm(layer(x)).flatten(1)
    chosen_scores = scores.gather(1, module(x).long())
    torch.testing.assert_close(chosen_scores, scores.topk(8, dim=1).values, rtol=1e-5, atol=1e-6)


def test_capture_sends_no_gradient_where_the_model_sends_none() -> None:
    """Detectors refine boxes layer by layer and detach them in between; the deployed program has no op for it."""

    def refined(m: Any, x: Tensor) -> Tensor:
        first = m.first(x)
        y: Tensor = m.second(first.detach()) + first
        return y

    model = Inline(refined, first=nn.Conv2d(3, 4, 1), second=nn.Conv2d(4, 4, 1)).eval()
    x = torch.randn(2, 3, 6, 6)
    prepared = prepare(model, (x,))
    prepared.set_quantizing_(False)
    for network in (model, prepared):
        network(x).square().sum().backward()
    own = {name.removeprefix("network."): p.grad for name, p in prepared.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(own[name], parameter.grad)
    prepared.set_quantizing_(True)
    calibrate(prepared, [(x,)])
    program = convert(prepared)
    assert not [node.op for node in program.nodes if "detach" in node.op]
    assert [node.op for node in program.layers()] == ["int8.conv2d"] * 2


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
