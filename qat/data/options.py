"""Checks of numbers that a data module is given; a message names the key of the configuration."""

from __future__ import annotations

from qat.errors import ConfigError


def check_at_least(low: int, **options: int | None) -> None:
    """`ConfigError` for an option below `low`; None passes."""
    for name, value in options.items():
        if value is not None and value < low:
            raise ConfigError(f"data.{name} must be at least {low}, got {value}")


def check_fraction(name: str, value: float) -> None:
    """`ConfigError` for a share outside of (0, 1)."""
    if not 0 < value < 1:
        raise ConfigError(f"data.{name} must lie between 0 and 1, got {value}")
