"""The schedule switches at exactly the steps that it names."""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import pytest

from qat.errors import ConfigError
from qat.quantization.prepared import PreparedModel
from qat.quantization.schedule import QATSchedule
from tests.quantization.networks import calibrated


@functools.cache
def prepared() -> PreparedModel:
    return calibrated("conv")


def switches(schedule: QATSchedule, total: int) -> list[tuple[bool, bool]]:
    """(quantizing, observing) at every step."""
    found = []
    for step in range(total):
        schedule.apply_(prepared(), step=step, total_steps=total)
        (activation,) = {(m.quantizing, m.observing) for _, m in prepared().fake_quantizes()}
        assert {m.quantizing for _, m in prepared().stored_fake_quantizes()} == {activation[0]}
        found.append(activation)
    return found


@pytest.mark.parametrize("total", [1, 3, 10, 100])
@pytest.mark.parametrize(("start", "freeze"), [("0", "1/2"), ("1/10", "0"), ("3/10", "1"), ("7/100", "29/100")])
def test_schedule_switches_at_the_fraction_of_the_steps(start: str, freeze: str, total: int) -> None:
    first, last = math.ceil(Fraction(start) * total), math.ceil(Fraction(freeze) * total)
    schedule = QATSchedule(quantize_from=float(Fraction(start)), freeze_ranges_at=float(Fraction(freeze)))
    assert switches(schedule, total) == [(step >= first, step < last) for step in range(total)]


def test_schedule_depends_on_nothing_but_the_step() -> None:
    schedule = QATSchedule(quantize_from=0.2, freeze_ranges_at=0.6)
    straight = switches(schedule, 10)
    for step in reversed(range(10)):
        schedule.apply_(prepared(), step=step, total_steps=10)
        module = next(m for _, m in prepared().fake_quantizes())
        assert (module.quantizing, module.observing) == straight[step]


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, math.nan])
def test_schedule_refuses_rounding_that_never_starts(value: float) -> None:
    with pytest.raises(ConfigError, match="quantize_from"):
        QATSchedule(quantize_from=value)


@pytest.mark.parametrize("value", [-0.1, 1.01, math.nan])
def test_schedule_refuses_a_freeze_outside_the_run(value: float) -> None:
    with pytest.raises(ConfigError, match="freeze_ranges_at"):
        QATSchedule(freeze_ranges_at=value)


def test_schedule_refuses_a_run_without_steps() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        QATSchedule().apply_(prepared(), step=0, total_steps=0)
