"""A prepared model drops in training what its model drops, and nothing of it is deployed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.prepare import prepare
from qat.quantization.prepared import PreparedModel
from qat.quantization.program.serialize import to_json
from tests.quantization.networks import Inline

P = 0.25
X = torch.randn(16, 3, 8, 8)

#: Layer or function that drops, and how much of its output is dropped together.
KINDS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, nn.Module], int]] = {
    "elements": (lambda m, x: m.drop(x), {"drop": nn.Dropout(P)}, 1),
    "function": (lambda m, x: F.dropout(x, P, m.training), {}, 1),
    "in place": (lambda m, x: F.dropout(x.clone(), P, m.training, inplace=True), {}, 1),
    "channels": (lambda m, x: m.drop(x), {"drop": nn.Dropout2d(P)}, 36),
    "rows (timm)": (lambda m, x: m.drop(x), {"drop": DropPath(P)}, 4 * 36),
    "rows (torchvision)": (lambda m, x: m.drop(x), {"drop": StochasticDepth(P, "row")}, 4 * 36),
}


def prepared_with(kind: str, *, dropout: bool = True) -> PreparedModel:
    torch.manual_seed(0)
    drop, layers, _ = KINDS[kind]
    model = Inline(lambda m, x: drop(m, m.conv(x).abs() + 1).flatten(1), conv=nn.Conv2d(3, 4, 3), **layers)
    prepared = prepare(model.eval(), X, dropout=dropout)
    calibrate(prepared, [X])
    return prepared


@pytest.mark.parametrize("kind", KINDS)
def test_training_drops_and_scales_and_evaluation_does_not(kind: str) -> None:
    prepared, without = prepared_with(kind), prepared_with(kind, dropout=False)
    whole = prepared.eval()(X)
    assert torch.equal(whole, without.train()(X))
    dropped = torch.cat([prepared.train()(X) for _ in range(40)])
    zero = dropped == 0
    assert abs(float(zero.float().mean()) - P) < 0.06
    torch.testing.assert_close(dropped[~zero], (whole.repeat(40, 1) / (1 - P))[~zero])
    together = zero.reshape(-1, KINDS[kind][2])
    assert bool((together.all(1) | ~together.any(1)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_it_is_deployed_or_calibrated(kind: str) -> None:
    """The program is the one of the model without dropout, bit for bit, also where calibration begins in training mode."""
    torch.manual_seed(0)
    prepared = prepared_with(kind).train()
    calibrate(prepared, [X])
    assert prepared.training
    without = prepared_with(kind, dropout=False)
    calibrate(without, [X])
    one, other = convert(prepared), convert(without)
    assert to_json(one) == to_json(other)
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_all_readers_of_a_tensor_see_one_mask_rounded_or_not() -> None:
    """A transformer drops embeddings that a linear layer reads on a grid and a residual in float."""
    layer = nn.Linear(16, 16, bias=False)
    nn.init.eye_(layer.weight)
    norm, drop = nn.LayerNorm(16), nn.Dropout(0.5)
    model = Inline(lambda m, x: (m.layer(h := m.drop(m.norm(x))), h), norm=norm, drop=drop, layer=layer)
    x = torch.randn(8, 16)
    prepared = prepare(model.eval(), x)
    calibrate(prepared, [x])
    rounded, plain = prepared.train()(x)
    zero = plain == 0
    assert 0.2 < float(zero.float().mean()) < 0.8
    assert not bool(rounded[zero].any())
    torch.testing.assert_close(rounded, plain, rtol=0, atol=0.06)


def test_what_reads_a_tensor_beside_its_dropout_reads_all_of_it() -> None:
    """PyTorch's dropout returns its argument itself in evaluation: a residual must not be traced behind it."""
    model = Inline(
        lambda m, x: (h := m.first(x)) + m.second(m.drop(h)),
        first=nn.Linear(8, 8),
        second=nn.Linear(8, 8),
        drop=nn.Dropout(1.0),
    )
    x = torch.randn(16, 8)
    prepared = prepare(model.train(), x)
    calibrate(prepared, [x], bias_correction=False)
    torch.testing.assert_close(prepared.train()(x), model(x), rtol=0, atol=0.05)


def test_alpha_dropout_puts_the_same_constant_into_all_readers() -> None:
    model = Inline(
        lambda m, x: (m.layer(h := m.drop(torch.selu(x))), h), layer=nn.Linear(64, 64, bias=False), drop=nn.AlphaDropout(0.5)
    )
    x = torch.randn(256, 64)
    prepared = prepare(model.train(), x)
    calibrate(prepared, [x])
    ours, theirs = prepared.train()(x)[1], model(x)[1]
    torch.testing.assert_close(ours.min(), theirs.min())
    for moment in (Tensor.mean, Tensor.std):
        assert float(moment(ours)) == pytest.approx(float(moment(theirs)), abs=0.05)


def test_stochastic_depth_scales_as_the_model_does() -> None:
    x = torch.ones(4096, 8)
    for scaled in (True, False):
        model = Inline(lambda m, x: m.drop(m.layer(x)), layer=nn.Linear(8, 8), drop=DropPath(0.5, scale_by_keep=scaled))
        prepared = prepare(model.train(), x)
        calibrate(prepared, [x])
        ours, theirs = prepared.train()(x).abs().amax(), model(x).abs().amax()
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0)


def test_three_dropouts_in_a_row() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Dropout(0.5), nn.Dropout(0.5), nn.Linear(8, 8, bias=False))
    x = torch.randn(64, 8)
    prepared = prepare(model.train(), x)
    calibrate(prepared, [x])
    assert len([module for module in prepared.modules() if "Dropout" in type(module).__name__]) == 3
    assert 0.1 < float((prepared.train()(x) == 0).all(1).float().mean()) < 0.6, "all eight are dropped in one row of three"


def test_one_dropout_behind_another() -> None:
    model = Inline(
        lambda m, x: m.layer(m.first(m.second(x))).flatten(1),
        first=nn.Dropout(0.5),
        second=nn.Dropout2d(0.5),
        layer=nn.Conv2d(3, 3, 1, groups=3, bias=False),
    )
    prepared = prepare(model.eval(), X)
    calibrate(prepared, [X])
    zero = (prepared.train()(X) == 0).reshape(16 * 3, -1)
    assert 0.6 < float(zero.float().mean()) < 0.9, "three in four are dropped"
    assert bool(zero.all(1).any()), "some channels as a whole"
    assert not torch.equal(prepared(X), prepared(X))
    assert torch.equal(prepared.eval()(X), prepared(X))


def test_layers_that_a_model_calls_dropout_keep_their_weights() -> None:
    layers = nn.Sequential(nn.Linear(16, 16), nn.Dropout(P))
    prepared = prepare(Inline(lambda m, x: m.dropout(x), dropout=layers).eval(), torch.randn(4, 16))
    assert {"network.dropout.0.weight", "network.dropout.0.bias"} == {name for name, _ in prepared.named_parameters()}


def test_a_prepared_model_has_the_mode_of_its_model() -> None:
    model = Inline(lambda m, x: m.drop(m.conv(x)), conv=nn.Conv2d(3, 4, 3), drop=nn.Dropout(P))
    assert prepare(model.train(), X).training
    assert not prepare(model.eval(), X).training
