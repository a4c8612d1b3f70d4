"""When observers run, when rounding starts and when ranges freeze during QAT."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qat.errors import ConfigError
from qat.quantization.prepare import PreparedModel


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
    freeze_ranges_at: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.quantize_from < 1:
            raise ConfigError(f"schedule.quantize_from must lie in [0, 1), got {self.quantize_from}")
        if not 0 <= self.freeze_ranges_at <= 1:
            raise ConfigError(f"schedule.freeze_ranges_at must lie in [0, 1], got {self.freeze_ranges_at}")

    def apply_(self, prepared: PreparedModel, *, step: int, total_steps: int) -> None:
        """Set the switches for step `step` (0-based) of `total_steps`; depends on nothing else, so resume is exact."""
        if total_steps < 1:
            raise ConfigError(f"a schedule needs at least one training step, got {total_steps}")
        prepared.set_quantizing_(step >= math.ceil(self.quantize_from * total_steps))
        prepared.set_observing_(step < math.ceil(self.freeze_ranges_at * total_steps))
