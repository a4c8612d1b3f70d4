"""The prepared model: what its checkpoints hold and refuse, and the switches of its tensors."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qat.errors import ConfigError, SchemeError
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.fake_quantize import ActivationFakeQuantize, StoredFakeQuantize
from qat.quantization.observer import OBSERVERS
from qat.quantization.prepare import prepare
from qat.quantization.prepared import PreparedModel, target_of
from tests.quantization.networks import CASES, calibrated


def roundtrip(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def test_prepared_model_resumes_from_a_safe_checkpoint() -> None:
    case = CASES["squeeze_excite"]
    trained = calibrated("squeeze_excite")
    fresh = prepare(case.model(seed=9), (case.inputs(),))
    fresh.load_state_dict(roundtrip(trained.state_dict()))
    x = case.inputs(3)
    assert torch.equal(fresh(x), trained(x))
    switches = [(m.observing, m.quantizing) for _, m in fresh.fake_quantizes()]
    assert switches == [(m.observing, m.quantizing) for _, m in trained.fake_quantizes()]


@pytest.mark.parametrize("observer", OBSERVERS)
def test_prepared_state_has_the_same_shapes_fresh_and_calibrated(observer: str) -> None:
    case = CASES["conv"]
    fresh = prepare(case.model(), (case.inputs(),), observer=observer)
    shapes = shapes_of(fresh)
    calibrate(fresh, [case.inputs()])
    assert shapes_of(fresh) == shapes


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items() if isinstance(value, Tensor)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "any"}, "target: checkpoint 'x86', model 'any'"),
        ({"target": "x86_vnni"}, "target: checkpoint 'x86', model 'x86_vnni'"),
        ({"observer": "minmax"}, "observer: checkpoint 'histogram', model 'minmax'"),
        ({"keep_float": ["head"]}, "kernels: checkpoint"),
    ],
)
def test_prepared_model_refuses_a_checkpoint_of_another_scheme(options: dict[str, Any], words: str) -> None:
    case = CASES["conv"]
    stored = prepare(case.model(), (case.inputs(),)).state_dict()
    other = prepare(case.model(), (case.inputs(),), **options)
    with pytest.raises(SchemeError) as error:
        other.load_state_dict(roundtrip(stored))
    assert words in str(error.value)


def test_checkpoint_of_an_earlier_qat_is_refused_in_words() -> None:
    case = CASES["conv"]
    prepared = prepare(case.model(), (case.inputs(),))
    state = prepared.state_dict()
    scheme = json.loads(bytes(state["_extra_state"].numpy()))
    state["_extra_state"] = json.dumps({**scheme, "backend": "fbgemm", "target": "vnni"})  # it was a string then
    with pytest.raises(SchemeError, match=r"target 'vnni'; It is now called x86_vnni.*baseline=RUN"):
        prepared.load_state_dict(roundtrip(state))


def test_checkpoint_of_another_target_is_taken_over_on_request() -> None:
    """Same kernels, other bounds: the ranges stay, and the weights get the scales of the new target."""
    case = CASES["squeeze_excite"]
    trained, other = calibrated("squeeze_excite", "x86_vnni"), prepare(case.model(seed=9), (case.inputs(),), target="x86")
    assert target_of(trained.state_dict()) == "x86_vnni"
    other.load_from_target_(roundtrip(trained.state_dict()))
    expected, got = convert(trained), convert(other)
    assert got.target == "x86"
    assert got.grids() == expected.grids()
    own = convert(calibrated("squeeze_excite", "x86"))
    weights = [name for name in own.tensors if "weight" in name]  # biases are corrected for the rounding of that target
    assert all(torch.equal(got.tensors[name], own.tensors[name]) for name in weights)
    assert any(not torch.equal(got.tensors[name], expected.tensors[name]) for name in own.tensors)


def test_checkpoint_of_a_target_with_other_kernels_is_refused_on_request_too() -> None:
    case = CASES["conv"]
    with pytest.raises(SchemeError, match=r"grids(.|\n)*target: checkpoint 'x86', model 'any'"):
        prepare(case.model(), (case.inputs(),), target="any").load_from_target_(calibrated("conv").state_dict())


def test_prepared_model_can_be_copied() -> None:
    prepared = calibrated("conv")
    twin: PreparedModel = copy.deepcopy(prepared)
    x = CASES["conv"].inputs(3)
    assert torch.equal(twin(x), prepared(x))
    with torch.no_grad():
        next(twin.parameters()).mul_(2)
    assert not torch.equal(next(twin.parameters()), next(prepared.parameters()))


def test_state_dict_holds_tensors_alone_and_survives_safetensors(tmp_path: Path) -> None:
    case = CASES["conv"]
    trained = calibrated("conv")
    state = trained.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    save_file(state, tmp_path / "state.safetensors")
    fresh = prepare(case.model(seed=9), (case.inputs(),))
    fresh.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert torch.equal(fresh(case.inputs(3)), trained(case.inputs(3)))


def test_scheme_that_was_stored_as_a_string_still_loads() -> None:
    case = CASES["conv"]
    trained = calibrated("conv")
    state = trained.state_dict()
    state["_extra_state"] = bytes(state["_extra_state"].numpy()).decode()
    assert target_of(state) == "x86"
    fresh = prepare(case.model(seed=9), (case.inputs(),))
    fresh.load_state_dict(roundtrip(state))
    assert torch.equal(fresh(case.inputs(3)), trained(case.inputs(3)))


def test_switches_reach_every_fake_quantize() -> None:
    prepared = prepare(CASES["conv"].model(), (CASES["conv"].inputs(),))
    for on in (False, True):
        prepared.set_observing_(on)
        prepared.set_quantizing_(on)
        assert {m.observing for m in prepared.modules() if isinstance(m, ActivationFakeQuantize)} == {on}
        kinds = ActivationFakeQuantize | StoredFakeQuantize
        assert {m.quantizing for m in prepared.modules() if isinstance(m, kinds)} == {on}


@pytest.mark.parametrize("name", ["conv", "squeeze_excite"])
def test_one_tensor_alone_can_be_rounded_or_left(name: str) -> None:
    """The output moves by what that tensor's rounding does, and by nothing else."""
    prepared, x = calibrated(name), CASES[name].inputs(3)
    names = [tensor for tensor, _ in prepared.quantizers()]
    assert {tensor for tensor in names if tensor.endswith("weight")} <= prepared.network.state_dict().keys()
    prepared.set_quantizing_(False)
    plain = prepared(x)
    moved = []
    for tensor in names:
        prepared.set_quantizing_(True, [tensor])
        moved.append(not torch.equal(prepared(x), plain))
        prepared.set_quantizing_(False, [tensor])
        assert torch.equal(prepared(x), plain), tensor
    assert sum(moved) > len(moved) / 2


def test_one_observer_alone_can_be_frozen() -> None:
    prepared = prepare(CASES["conv"].model(), (CASES["conv"].inputs(),))
    prepared.set_observing_(False, ["relu"])
    assert {name: m.observing for name, m in prepared.fake_quantizes()} == {
        name: name != "relu" for name, _ in prepared.fake_quantizes()
    }


def test_tensor_that_is_not_quantized_is_named() -> None:
    prepared = calibrated("conv")
    with pytest.raises(ConfigError, match=r"no quantized tensor is called 'rely'.*Did you mean 'relu'"):
        prepared.set_quantizing_(False, ["rely"])
    with pytest.raises(ConfigError, match="no quantized tensor is called 'stem"):
        prepared.set_observing_(False, ["stem.0.weight"])
