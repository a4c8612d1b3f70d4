"""Capture: the graph is the model, whatever the batch; what cannot be captured is refused with its line."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qat.errors import CaptureError
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.graph.capture import capture
from qat.quantization.prepare import prepare
from tests.quantization.graph.same import assert_same
from tests.quantization.networks import CASES, Case, ConvNet, Inline, graph_ops


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


def test_capture_names_the_line_of_data_dependent_control_flow() -> None:
    with pytest.raises(CaptureError) as error:
        capture(Branching(), (torch.randn(2, 4),))
    assert "Branching cannot be captured" in str(error.value)
    assert "test_capture.py" in str(error.value)
    assert "if float(y.sum()) > 0" in str(error.value)


def test_capture_refuses_a_model_that_is_not_deterministic() -> None:
    with pytest.raises(CaptureError, match="not deterministic"):
        capture(Random(), (torch.randn(2, 4),))


def test_capture_refuses_an_unknown_output_type() -> None:
    class Opaque:
        def __init__(self, value: Tensor) -> None:
            self.value = value

    model = Inline(lambda self, x: Opaque(self.linear(x)), linear=nn.Linear(4, 4))
    with pytest.raises(CaptureError):
        capture(model, (torch.randn(2, 4),))


@pytest.mark.parametrize("batch", [1, 2])
def test_capture_takes_the_only_input_as_it_is_and_wrapped_models(batch: int) -> None:
    model, x = ConvNet().eval(), torch.randn(batch, 3, 8, 8)
    for wrapped in (model, torch.compile(model), nn.DataParallel(model)):
        assert_same(capture(wrapped, x).module(x), model(x))  # type: ignore[arg-type]


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
