"""Prepare: an ordinary module that trains, with one fake_quantize per tensor and a scheme that checkpoints keep."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qat.errors import ConfigError, ConvertError
from qat.quantization.calibrate import calibrate
from qat.quantization.fake_quantize import WeightFakeQuantize
from qat.quantization.layouts import ChannelsLast, Framed, Layout, PerTap
from qat.quantization.observer import OBSERVERS
from qat.quantization.prepare import prepare
from tests.quantization.networks import CASES, Inline, calibrated

NAME = pytest.mark.parametrize("name", CASES)


@NAME
def test_prepared_model_without_rounding_equals_the_float_model(name: str) -> None:
    case = CASES[name]
    prepared, x = prepare(case.model(), (case.inputs(),)), case.inputs(3)
    prepared.set_quantizing_(False)
    torch.testing.assert_close(prepared(x), case.model()(x), rtol=1e-4, atol=1e-5)


@NAME
def test_prepared_model_is_the_same_in_training_and_evaluation(name: str) -> None:
    """But for what drops in training."""
    model, x = CASES[name].model(), CASES[name].inputs(3)
    prepared = prepare(model, (CASES[name].inputs(),), dropout=False)
    calibrate(prepared, [CASES[name].inputs(8)])
    assert torch.equal(prepared.train()(x), prepared.eval()(x))


def test_models_may_have_their_own_fake_quantize() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.fake_quantize = nn.Linear(4, 4), nn.Parameter(torch.ones(4))
            self.weight_fake_quantize = nn.Sequential(nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.weight_fake_quantize(self.layer(x) * self.fake_quantize)
            return y

    x = torch.randn(3, 4)
    prepared = prepare(Named().eval(), x)
    assert "network.weight_fake_quantize.0.weight" in dict(prepared.named_parameters())
    assert len(list(prepared.stored_fake_quantizes())) == 2


def test_tensors_may_be_called_like_methods_of_a_module() -> None:
    model = Inline(lambda m, x: m.layer((x > 0).to(torch.float64).float()) + m.layer(x.abs().float()), layer=nn.Linear(4, 4))
    x = torch.randn(3, 4)
    prepared = prepare(Inline(lambda m, x: m.layer(F.one_hot(x.argmax(-1), 4).float()), layer=nn.Linear(4, 4)).eval(), x)
    calibrate(prepared, [x])
    assert prepared.grids().keys() == {"to"}
    prepare(model.eval(), x)


@NAME
def test_prepared_model_trains(name: str) -> None:
    """A few steps change every weight of the network and lower the loss; gradients are finite."""
    prepared = calibrated(name).train()
    prepared.set_observing_(True)
    x = CASES[name].inputs(8)
    target = prepared(x).detach() * 0.5 + 0.5
    optimizer = torch.optim.Adam(prepared.parameters(), lr=1e-2)
    before = {key: p.detach().clone() for key, p in prepared.named_parameters()}
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = F.mse_loss(prepared(x), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    after = dict(prepared.named_parameters())
    assert [key for key, value in before.items() if torch.equal(value, after[key])] == []
    assert all(bool(torch.isfinite(p).all()) for p in after.values())


def test_prepare_leaves_the_model_alone() -> None:
    case = CASES["conv"]
    model = case.model().train()
    before = copy.deepcopy(model.state_dict())
    prepared = prepare(model, (case.inputs(),))
    calibrate(prepared, [case.inputs()])
    assert model.training
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_prepare_shares_one_fake_quantize_between_all_consumers() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        z: Tensor = m.b(y) + m.c(y) + y
        return F.relu(z)

    model = Inline(function, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1), c=nn.Conv2d(4, 4, 1)).eval()
    prepared = prepare(model, (torch.randn(2, 3, 4, 4),))
    names = [name for name, _ in prepared.fake_quantizes()]
    assert len(names) == len(set(names))
    (shared,) = [n for n in prepared.network.graph.nodes if n.name == "fake_quantize_conv2d"]
    assert len(shared.users) >= 2


def test_prepare_gives_every_grid_a_fake_quantize_and_every_int8_weight_one() -> None:
    for name in CASES:
        prepared = calibrated(name)
        assert {name for name, _ in prepared.fake_quantizes()} == prepared.placement.grids
        layers = [k for k in prepared.placement.kernels.values() if k.role.value == "compute"]
        assert len(list(prepared.stored_fake_quantizes())) == len(layers)


def test_prepare_lets_only_integer_kernels_see_the_rounded_float_tensor() -> None:
    """A float tensor that a layer and a float op read is rounded for the layer alone."""
    model = Inline(lambda m, x: F.gelu(x) + m.a(x), a=nn.Conv2d(3, 3, 1)).eval()
    prepared = prepare(model, (torch.randn(2, 3, 4, 4),))
    (fake,) = [n for n in prepared.network.graph.nodes if n.name == "fake_quantize_x"]
    assert {str(user.target) for user in fake.users} == {"aten.conv2d.default"}


@pytest.mark.parametrize("observer", OBSERVERS)
def test_prepare_uses_the_observer_that_was_asked_for(observer: str) -> None:
    case = CASES["conv"]
    prepared = prepare(case.model(), (case.inputs(),), observer=observer)
    kinds = {type(module.observer) for _, module in prepared.fake_quantizes()}
    assert kinds == {OBSERVERS[observer]}


def test_prepare_refuses_unknown_settings() -> None:
    case = CASES["conv"]
    unknown: list[dict[str, Any]] = [{"target": "x68"}, {"target": "vnni"}, {"observer": "median"}]
    for options in unknown:
        with pytest.raises(ConfigError):
            prepare(case.model(), (case.inputs(),), **options)


def test_prepare_says_what_a_backend_is_called_now() -> None:
    case = CASES["conv"]
    with pytest.raises(ConfigError, match=r"target=NAME instead of backend='qnnpack'. It is now called arm"):
        prepare(case.model(), (case.inputs(),), backend="qnnpack")


def test_prepare_refuses_a_model_in_which_nothing_can_be_int8() -> None:
    with pytest.raises(ConvertError, match="no layer of Inline can run as INT8"):
        prepare(Inline(lambda m, x: F.gelu(x) * 2), (torch.randn(2, 3),))
    case = CASES["conv"]
    with pytest.raises(ConvertError, match="keep_float"):
        prepare(case.model(), (case.inputs(),), keep_float=["*"])


# --- sums in 16 bits ------------------------------------------------------------------------------------------------


def bounds(target: str, **layers: nn.Module) -> list[tuple[Layout, ...]]:
    """The layouts in which the weight of each convolution of a chain is bounded, in order."""

    def chain(m: Any, x: Tensor) -> Tensor:
        for name in layers:
            x = getattr(m, name)(x)
        return x

    prepared = prepare(Inline(chain, **layers).eval(), (torch.randn(2, 8, 6, 6),), target=target)
    nodes = [n for n in prepared.network.graph.nodes if n.target in (torch.ops.aten.conv2d.default,)]
    found = []
    for node in nodes:
        module = prepared.network.get_submodule(node.args[1].target)
        assert isinstance(module, WeightFakeQuantize)
        found.append(module.layouts)
    return found


def test_every_layout_of_what_a_target_may_add_in_16_bits_is_bounded() -> None:
    layers = {
        "dense": nn.Conv2d(8, 9, 3, padding=1),
        "odd": nn.Conv2d(9, 8, 3, padding=1),
        "point": nn.Conv2d(8, 8, 1),
        "grouped": nn.Conv2d(8, 8, 3, padding=1, groups=4),
        "depthwise": nn.Conv2d(8, 8, 3, padding=1, groups=8),
        "multiplier": nn.Conv2d(8, 16, 3, padding=1, groups=8),
    }
    row = (ChannelsLast(),)
    assert bounds("x86", **layers) == bounds("any", **layers) == [row, (ChannelsLast(), PerTap()), row, row, row, row]
    assert bounds("x86_vnni", **layers) == [(), (), (), (), row, row]
    assert bounds("arm", **layers) == [()] * 6


def test_one_input_channel_is_not_depthwise() -> None:
    assert bounds("x86_vnni", squeeze=nn.Conv2d(8, 1, 1), stem=nn.Conv2d(1, 4, 3)) == [(), ()]


@pytest.mark.parametrize("target", ["x86", "x86_vnni"])
def test_depthwise_layer_behind_a_padding_is_bounded_in_its_frame_too(target: str) -> None:
    """An engine may take over the padding, and then other taps are neighbours."""
    pad, depthwise = nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3, stride=2, groups=8)
    assert bounds(target, first=nn.Conv2d(8, 8, 1), pad=pad, depthwise=depthwise)[1] == (
        ChannelsLast(),
        Framed(size=5, top=2, left=2),
    )
    first, detached = nn.Conv2d(8, 8, 1), Inline(lambda m, x: F.pad(x, (0, 1, 0, 1)).detach())
    assert len(bounds(target, first=first, pad=detached, depthwise=depthwise)[1]) == 2, "detach is no op of the program"
    dense = nn.Conv2d(8, 8, 3, stride=2)
    assert all(not isinstance(layout, Framed) for layout in bounds(target, first=nn.Conv2d(8, 8, 1), pad=pad, dense=dense)[1])


# --- checkpoints ----------------------------------------------------------------------------------------------------
