"""Fields that know what they may hold, and the search for everything that is wrong with a configuration at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import field, fields, is_dataclass
from typing import Any, cast

from qat.errors import ConfigError, near

#: A key that has to be given, as OmegaConf spells it.
MISSING = "???"


def one_of(default: str | None, *allowed: str) -> Any:
    """A field that holds one of a few words; None is for a default of None alone."""
    return field(default=default, metadata={"allowed": allowed})


def between(default: float | None, low: float, high: float = math.inf) -> Any:
    """A field that holds a number from `low` to `high`; None is for a default of None alone."""
    return field(default=default, metadata={"low": low, "high": high})


def refuse_mistakes(config: object) -> None:
    """`ConfigError` that says everything that is wrong with the values."""
    if found := list(mistakes(config)):
        raise ConfigError("\n".join(found))


def mistakes(config: Any, path: str = "") -> Iterator[str]:
    """What is wrong with the values of a dataclass and of those in it, one message per key."""
    for known in fields(config):
        value, name = getattr(config, known.name), f"{path}{known.name}"
        if is_dataclass(value):
            yield from mistakes(value, f"{name}.")
        elif value is None or (value == MISSING and isinstance(value, str)):
            continue
        elif "allowed" in known.metadata:
            allowed = cast(Sequence[str], known.metadata["allowed"])
            if value not in allowed:
                yield f"{name}={value}: unknown {known.name}.{near(str(value), allowed)}"
        elif "low" in known.metadata and not known.metadata["low"] <= value <= known.metadata["high"]:
            low, high = known.metadata["low"], known.metadata["high"]
            bounds = f"at least {low}" if high == math.inf else f"from {low} to {high}"
            yield f"{name}={value}: must be {bounds}"
