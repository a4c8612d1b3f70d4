"""QConfig: another method, by layer, through prepare, training, checkpoint and convert to real INT8."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qat.errors import CalibrationError, ConfigError, ConvertError, KeepFloatError, SchemeError
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import lower
from qat.quantization.fake_quantize import ActivationFakeQuantize, FakeQuantize, WeightFakeQuantize
from qat.quantization.observer import HistogramObserver, MinMaxObserver
from qat.quantization.prepare import prepare
from qat.quantization.prepared import PreparedModel
from qat.quantization.qconfig import QConfig
from qat.quantization.qparams import QParams, short_scale
from tests.quantization.networks import CASES, observed


class LearnedRange(ActivationFakeQuantize):
    """A toy method in a file of its own: the upper end of the range is a parameter, the lower one 0 or its opposite.

    Reference: Choi et al. 2018, arXiv:1805.06085 (PACT).
    """

    signed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(3.0))
        self.register_buffer("signed", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            self.signed.logical_or_((x < 0).any())
        if not self.quantizing:
            return x
        grid, low = self.qparams(), -self.alpha if self.signed else torch.tensor(0.0)
        clipped = torch.clamp(x, low, self.alpha)
        rounded = torch.round(clipped / grid.scale).clamp(-grid.zero_point, 255 - grid.zero_point) * grid.scale
        return clipped + (rounded - clipped).detach()

    def qparams(self) -> QParams:
        if not self.alpha > 0:
            raise CalibrationError("alpha is not positive")
        width = self.alpha.detach() * (2 if self.signed else 1)
        return QParams(scale=float(short_scale(width / 255)), zero_point=128 if self.signed else 0)


class AlwaysSigned(LearnedRange):
    """A method that does not see that a tensor is never negative."""

    def qparams(self) -> QParams:
        return QParams(scale=1 / 32, zero_point=128)


LEARNED = QConfig(activation=LearnedRange, name="learned")


def _prepared(qconfig: Any, **options: Any) -> PreparedModel:
    case = CASES["conv"]
    return prepare(case.model(), (case.inputs(),), qconfig=qconfig, **options)


def test_another_method_trains_and_becomes_int8() -> None:
    """Nothing but its own file knows of it: gradients reach its parameter, and the program has its grid."""
    prepared, x = _prepared(LEARNED), CASES["conv"].inputs(8)
    assert {type(module) for _, module in prepared.fake_quantizes()} == {LearnedRange}
    calibrate(prepared, [x])
    optimizer = torch.optim.SGD(prepared.parameters(), lr=1e-2)
    before = {name: float(p.detach()) for name, p in prepared.named_parameters() if name.endswith("alpha")}
    loss = prepared(x).square().mean()
    loss.backward()
    optimizer.step()
    after = {name: float(p.detach()) for name, p in prepared.named_parameters() if name.endswith("alpha")}
    assert any(after[name] != value for name, value in before.items())
    program = convert(prepared)
    for name, module in prepared.fake_quantizes():
        assert program.grids().get(name, module.qparams()) == module.qparams()
    with torch.no_grad():
        difference = (lower(program, "fbgemm")(x) - prepared(x)).abs().max()
    assert float(difference) < 3 * max(grid.scale for grid in program.grids().values())


def test_grid_below_zero_cannot_stand_for_a_relu() -> None:
    prepared = _prepared(QConfig(activation=AlwaysSigned, name="signed"))
    calibrate(prepared, [CASES["conv"].inputs(8)])
    with pytest.raises(ConvertError, match=r"'relu' is never negative.*has to start at 0, got zero point 128"):
        convert(prepared)


def test_layers_have_what_their_pattern_says() -> None:
    prepared = _prepared({"stem*": QConfig.of("minmax"), "head": None}, observer="histogram")
    kinds = {name: type(observed(module)) for name, module in prepared.fake_quantizes()}
    assert kinds["relu"] is MinMaxObserver
    assert HistogramObserver in kinds.values()
    kept = prepare(CASES["conv"].model(), (CASES["conv"].inputs(),), keep_float=["head"])
    assert prepared.placement.kernels == kept.placement.kernels, "None is keep_float"


def test_first_pattern_that_matches_counts() -> None:
    prepared = _prepared({"stem*": QConfig.of("minmax"), "*": QConfig.of("histogram")})
    kinds = {name: type(observed(module)) for name, module in prepared.fake_quantizes()}
    assert kinds["relu"] is MinMaxObserver
    assert {*kinds.values()} == {MinMaxObserver, HistogramObserver}


def test_weights_can_have_another_method_too() -> None:
    made = []

    def weight(layouts: Any) -> WeightFakeQuantize:
        made.append(layouts)
        return WeightFakeQuantize(layouts)

    prepared = _prepared(QConfig.of("minmax", weight=weight))
    assert len(made) == len(list(prepared.stored_fake_quantizes()))
    assert all(layouts for layouts in made), "it is told what adds in 16 bits"


def test_default_is_that_of_the_observer() -> None:
    for prepared in (_prepared(None), _prepared(QConfig.of("histogram"), observer="minmax")):
        assert all(isinstance(module, FakeQuantize) for _, module in prepared.fake_quantizes())


def test_checkpoint_of_another_method_is_refused() -> None:
    stored = _prepared({"stem*": QConfig.of("minmax")}).state_dict()
    _prepared({"stem*": QConfig.of("minmax")}).load_state_dict(stored)
    with pytest.raises(SchemeError, match="qconfig: checkpoint"):
        _prepared({"stem*": QConfig.of("histogram")}).load_state_dict(stored, strict=False)


def test_unknown_observer_and_pattern_are_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown observer 'minmx'.*Did you mean 'minmax'"):
        QConfig.of("minmx")
    with pytest.raises(KeepFloatError, match="'heads' matches no layer"):
        _prepared({"heads": None})
