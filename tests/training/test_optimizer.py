from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from qat.errors import ConfigError
from qat.training.optimizer import OPTIMIZERS, OptimizerFactory


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def _rates(factory: OptimizerFactory, total: int) -> list[float]:
    """The learning rate of every step, as a training loop sees it."""
    built = factory.build(_network(), total)
    optimizer, scheduler = built["optimizer"], built["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("total", [1, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
def test_cosine_rate_follows_the_formula(total: int, warmup: float) -> None:
    steps = math.floor(warmup * total)
    expected = [
        0.1 * (k + 1) / steps if k < steps else 0.05 * (1 + math.cos(math.pi * (k - steps) / (total - steps)))
        for k in range(total)
    ]
    assert _rates(OptimizerFactory(lr=0.1, warmup=warmup), total) == pytest.approx(expected)


def test_constant_rate_stays_after_warm_up() -> None:
    assert _rates(OptimizerFactory(lr=0.5, warmup=0.4, decay="constant"), 10) == pytest.approx(
        [0.125, 0.25, 0.375, 0.5, *[0.5] * 6]
    )


def test_rate_never_falls_below_zero_nor_rises_again_behind_the_end() -> None:
    assert OptimizerFactory().factor(120, 100) == pytest.approx(0.0, abs=1e-12)


def test_schedule_runs_per_step() -> None:
    assert OptimizerFactory().build(_network(), 10)["lr_scheduler"]["interval"] == "step"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_is_for_parameters_of_two_and_more_dimensions(name: str) -> None:
    network = _network()
    optimizer = OptimizerFactory(name=name, weight_decay=0.3).build(network, 10)["optimizer"]
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(p): 0.3 if p.dim() >= 2 else 0.0 for p in network.parameters()}


def test_any_optimizer_of_timm_is_at_hand() -> None:
    network = _network()
    factory = OptimizerFactory(name="timm", lr=0.1, weight_decay=0.3, arguments={"opt": "lion", "betas": (0.5, 0.6)})
    optimizer = factory.build(network, 10)["optimizer"]
    assert type(optimizer).__name__ == "Lion"
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.6)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {id(p): 0.3 if p.dim() >= 2 else 0.0 for p in network.parameters()}


@pytest.mark.parametrize("name", ["sgd", "timm"])
def test_argument_that_an_optimizer_does_not_take_is_refused(name: str) -> None:
    arguments = {"opt": "lamb", "momentun": 0.9} if name == "timm" else {"momentun": 0.9}
    with pytest.raises(ConfigError, match="momentun"):
        OptimizerFactory(name=name, arguments=arguments).build(_network(), 10)


def test_frozen_parameters_are_left_out() -> None:
    network = _network()
    for parameter in network[0].parameters():  # type: ignore[index]
        parameter.requires_grad_(False)
    optimizer = OptimizerFactory().build(network, 10)["optimizer"]
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in network.parameters() if p.requires_grad}


def test_momentum_reaches_the_optimizers_that_have_it() -> None:
    for name in ("sgd", "rmsprop"):
        group = OptimizerFactory(name=name, arguments={"momentum": 0.7}).build(_network(), 10)["optimizer"].param_groups[0]
        assert group["momentum"] == 0.7


def test_sgd_step_is_minus_rate_times_gradient() -> None:
    network = nn.Linear(2, 2, bias=False)
    before = network.weight.detach().clone()
    optimizer = OptimizerFactory(name="sgd", lr=0.1, warmup=0.0).build(network, 10)["optimizer"]
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(network.weight.detach(), before - 0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "adamv"}, r"unknown optimizer 'adamv'. Did you mean 'adam.*Allowed: adam, adamw, rmsprop, sgd"),
        ({"name": "torch.optim.SGD"}, "unknown optimizer"),
        ({"name": "timm", "arguments": {"opt": "lambb"}}, "timm has no optimizer 'lambb'.*Did you mean 'lamb'"),
        ({"decay": "cosin"}, "unknown decay 'cosin'. Did you mean 'cosine'"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"lr": math.nan}, "lr must be positive"),
        ({"lr": math.inf}, "lr must be positive"),
        ({"warmup": 1.0}, "warmup"),
        ({"warmup": -0.1}, "warmup"),
    ],
)
def test_what_cannot_be_is_refused_with_advice(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimizerFactory(**options)
