from __future__ import annotations

import json
import warnings
from collections.abc import Sequence

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from qat.errors import ConfigError
from qat.sweep.space import Choice, Dimension, Interval, distributions

#: A dimension of every kind.
SPACE: Sequence[Dimension] = (
    Choice(key="optimizer", values=("adamw", "sgd")),
    Interval(key="lr", low=1e-6, high=1e-3, log=True),
    Interval(key="decay", low=0.0, high=0.1),
    Interval(key="epochs", low=1, high=5, integer=True),
    Interval(key="batch", low=1, high=64, integer=True, log=True),
    Interval(key="image", low=32, high=96, step=16, integer=True),
    Interval(key="share", low=0.1, high=0.9, step=0.2),
)


def test_every_dimension_is_drawn_within_its_bounds_and_on_its_steps() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns when it has to change a distribution
        trials = [study.ask(distributions(SPACE)) for _ in range(50)]
    for dimension in SPACE:
        values = [trial.params[dimension.key] for trial in trials]
        if isinstance(dimension, Choice):
            assert set(values) == set(dimension.values)
            continue
        assert isinstance(dimension, Interval)
        assert all(dimension.low <= value <= dimension.high for value in values)
        if dimension.step is not None:
            steps = [(value - dimension.low) / dimension.step for value in values]
            assert steps == pytest.approx([round(step) for step in steps])
            assert {round(step) for step in steps} == set(range(5))


def test_distributions_are_named_by_key_and_of_the_kind_that_fits() -> None:
    found = distributions(SPACE)
    assert list(found) == [dimension.key for dimension in SPACE]
    kinds = [CategoricalDistribution, FloatDistribution, FloatDistribution, *[IntDistribution] * 3, FloatDistribution]
    assert [type(distribution) for distribution in found.values()] == kinds


def test_wandb_parameters_say_what_optuna_draws_from() -> None:
    for dimension in SPACE:
        parameter, distribution = dimension.parameter(), dimension.distribution()
        if isinstance(distribution, CategoricalDistribution):
            assert parameter == {"values": list(distribution.choices)}
            continue
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        assert isinstance(dimension, Interval)
        if "values" in parameter:
            assert dimension.step is not None
            numbers = [dimension.low + i * dimension.step for i in range(5)]
            assert parameter["values"] == pytest.approx(numbers)
            assert (numbers[0], numbers[-1]) == pytest.approx((distribution.low, distribution.high))
            assert {type(value) for value in parameter["values"]} == {type(distribution.low)}
        else:
            assert (parameter["min"], parameter["max"]) == (distribution.low, distribution.high)
            assert type(parameter["min"]) is type(distribution.low)
            assert ("log" in parameter["distribution"]) == distribution.log


def test_dimensions_that_differ_differ_as_json() -> None:
    """A study holds its space as JSON, to notice that it is continued with another."""
    texts = {json.dumps(dimension.to_json(), sort_keys=True) for dimension in SPACE}
    assert len(texts) == len(SPACE)
    base = Interval(key="lr", low=1.0, high=3.0)
    others = [
        Interval(key="wd", low=1.0, high=3.0),
        Interval(key="lr", low=2.0, high=3.0),
        Interval(key="lr", low=1.0, high=4.0),
        Interval(key="lr", low=1.0, high=3.0, log=True),
        Interval(key="lr", low=1.0, high=3.0, integer=True),
        Interval(key="lr", low=1.0, high=3.0, step=1.0),
        Choice(key="lr", values=("1.0", "3.0")),
    ]
    assert all(other.to_json() != base.to_json() for other in others)


@pytest.mark.parametrize(
    ("low", "high", "options", "words"),
    [
        (1.0, 1.0, {}, "lr: an interval goes from a smaller to a larger number"),
        (2.0, 1.0, {}, "got 2.0 to 1.0"),
        (float("nan"), 1.0, {}, "smaller to a larger"),
        (0.0, float("inf"), {}, "smaller to a larger"),
        (0.0, 1.0, {"log": True}, "lr: a logarithmic interval starts above 0"),
        (1.0, 3.0, {"log": True, "step": 1.0}, "lr: a logarithmic interval has no step"),
        (0.5, 3.0, {"integer": True}, "lr: whole numbers go from one to another"),
        (0.0, 2.5, {"integer": True}, "got 0.0 to 2.5"),
        (0.0, 3.0, {"integer": True, "step": 1.5}, "whole numbers"),
    ],
)
def test_interval_that_cannot_be_is_refused(low: float, high: float, options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Interval(key="lr", low=low, high=high, **options)  # type: ignore[arg-type]
