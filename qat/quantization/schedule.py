"""When observers run, when rounding starts and when ranges freeze during QAT."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qat.errors import ConfigError
from qat.quantization.prepared import PreparedModel


@dataclass(frozen=True, kw_only=True)
class QATSchedule:
    """Two moments, as fractions of the training steps.

    Args:
        quantize_from: rounding starts here; before it the network trains in float while observers watch. In [0, 1).
        freeze_ranges_at: observers stop here, so that the last steps train for the very grid that is deployed. In
            [0, 1]; 0 keeps the calibrated ranges from the start.

    Reference: Krishnamoorthi 2018, arXiv:1806.08342, section 3.2 (delayed activation quantization).
    """

    quantize_from: float = 0.0
    freeze_ranges_at: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.quantize_from < 1:
            raise ConfigError(f"schedule.quantize_from must lie in [0, 1), got {self.quantize_from}")
        if not 0 <= self.freeze_ranges_at <= 1:
            raise ConfigError(f"schedule.freeze_ranges_at must lie in [0, 1], got {self.freeze_ranges_at}")

    def apply_(self, prepared: PreparedModel, *, step: int, total_steps: int) -> None:
        """Set the switches for step `step` (0-based) of `total_steps`; depends on nothing else, so resume is exact."""
        if total_steps < 1:
            raise ConfigError(f"a schedule needs at least one training step, got {total_steps}")
        prepared.set_quantizing_(step >= _first_step(self.quantize_from, total_steps))
        prepared.set_observing_(step < _first_step(self.freeze_ranges_at, total_steps))


def _first_step(fraction: float, total_steps: int) -> int:
    """The first step at or behind `fraction` of all; 0.07 * 100 is 7.000000000000001 in floats, and means step 7."""
    return math.ceil(fraction * total_steps * (1 - 1e-12))
