"""Targets: one word for kernels, bounds and engines."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from qat.config import CHOICES
from qat.config.run import QuantizationConfig
from qat.errors import ConfigError
from qat.quantization.engines import ENGINES
from qat.quantization.layouts import Kind
from qat.quantization.targets import TARGETS, Target, get_target, renamed, running

TARGET = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def test_targets_were_found() -> None:
    assert list(TARGETS) == ["x86", "x86_vnni", "arm", "any"]
    assert all(name == target.name for name, target in TARGETS.items())


@TARGET
def test_target_names_engines_that_exist(target: Target) -> None:
    assert target.engines
    assert set(target.engines) < ENGINES.keys()


@TARGET
def test_target_is_a_choice_of_the_configuration(target: Target) -> None:
    assert CHOICES["quantization"][target.name] == QuantizationConfig(target=target.name)


def test_choices_of_the_configuration_are_targets() -> None:
    assert CHOICES["quantization"].keys() == TARGETS.keys()
    assert QuantizationConfig().target == "x86"


def test_default_target_bounds_every_kind_of_layer() -> None:
    """What is made by default runs on every x86 CPU."""
    assert get_target("x86").bounded == frozenset(Kind)
    assert get_target("any").bounded == frozenset(Kind)
    assert get_target("x86_vnni").bounded == {Kind.DEPTHWISE}


def test_kernel_is_none_for_an_op_without_one() -> None:
    assert all(target.kernel("aten.gelu.default") is None for target in TARGETS.values())
    assert all(target.kernel("aten.conv2d.default") is not None for target in TARGETS.values())


def test_layouts_are_those_of_bounded_kinds_alone() -> None:
    dense, depthwise = torch.empty(8, 3, 3, 3), torch.empty(8, 1, 3, 3)
    assert len(get_target("x86").layouts("aten.conv2d.default", dense, 1)) == 2
    assert get_target("x86_vnni").layouts("aten.conv2d.default", dense, 1) == ()
    assert len(get_target("x86_vnni").layouts("aten.conv2d.default", depthwise, 8)) == 1


def test_unknown_target_names_what_is_near() -> None:
    with pytest.raises(ConfigError, match=r"unknown target 'x86vnni'.*Did you mean 'x86_vnni'.*any, arm, x86, x86_vnni"):
        get_target("x86vnni")


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        ("vnni", "x86_vnni"),
        ("avx2", "x86"),
        ("fbgemm", "x86_vnni"),
        ("fbgemm_avx2", "x86"),
        ("portable", "any"),
        ("qnnpack", "arm"),
    ],
)
def test_earlier_names_say_what_they_are_called_now(earlier: str, now: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown target '{earlier}'. It is now called {now}"):
        get_target(earlier)
    assert renamed(now) is None


def test_running_names_the_targets_of_an_engine() -> None:
    assert list(running("qnnpack")) == ["arm", "any"]
    assert list(running("fbgemm")) == ["x86", "x86_vnni", "any"]


def test_targets_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_target("x86").name = "other"  # type: ignore[misc]
