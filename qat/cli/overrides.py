"""Hydra's sweep syntax, read: which overrides of a command line are fixed and which span a search space."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Sweep

from qat.errors import ConfigError
from qat.sweep.space import Choice, Dimension, Interval


def read(arguments: Sequence[str], loader: ConfigLoader | None = None) -> dict[str, Override]:
    """Overrides by key, `+` and `~` included; a key that is given twice counts as given last.

    Args:
        loader: finds what `glob(...)` over a group means; without it globs are refused.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    return {override.get_key_element(): override for override in parsed}


def grid(overrides: Mapping[str, Override]) -> list[list[str]]:
    """The overrides of every job of a grid: all combinations, the last key changes fastest.

    Raises:
        ConfigError: an interval, of which a grid cannot try every value.
    """
    values = []
    for key, override in overrides.items():
        if isinstance(override.value(), IntervalSweep):
            raise ConfigError(
                f"{key} spans an interval, and a grid cannot try every value of it; name values (choice(a,b), range(1,5)) "
                "or search it with hydra/sweeper=optuna"
            )
        strings = _enumerated(key, override) if override.is_sweep_override() else [override.get_value_element_as_str()]
        values.append([written(override, value) for value in strings])
    return [list(job) for job in itertools.product(*values)]


def split(overrides: Mapping[str, Override]) -> tuple[list[str], list[Dimension]]:
    """Fixed overrides as they were written, and the search space that the others span."""
    fixed = [written(o, o.get_value_element_as_str()) for o in overrides.values() if not o.is_sweep_override()]
    return fixed, [dimension(key, o) for key, o in overrides.items() if o.is_sweep_override()]


def dimension(key: str, override: Override) -> Dimension:
    """`choice(a,b)`, `range(1,5)`, `glob(...)`, `interval(0,1)`; `tag(log, ...)` and `tag(int, ...)` around an interval."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        unknown = value.tags - {"log", "int", "float"}
        if unknown:
            raise ConfigError(f"{key}: unknown tag {', '.join(sorted(unknown))}. Allowed: log, int, float.")
        assert value.start is not None
        assert value.end is not None
        integer = "int" in value.tags or (isinstance(value.start, int) and isinstance(value.end, int))
        return Interval(key=key, low=float(value.start), high=float(value.end), log="log" in value.tags, integer=integer)
    if isinstance(value, Sweep) and value.tags:
        raise ConfigError(
            f"{key}: tag({', '.join(sorted(value.tags))}, ...) says how to draw from an interval(low, high) alone"
        )
    if isinstance(value, RangeSweep | ChoiceSweep):  # a search draws in its own order
        override = replace(override, _value=replace(value, shuffle=False))
    strings = _enumerated(key, override)
    if isinstance(value, RangeSweep) and len(strings) > 1:
        first, step = Decimal(str(value.start)), Decimal(str(value.step))
        last = first + (len(strings) - 1) * step  # in decimals, so that the step divides the interval exactly
        integer = isinstance(value.range(), range)
        return Interval(
            key=key, low=float(min(first, last)), high=float(max(first, last)), step=float(abs(step)), integer=integer
        )
    return Choice(key=key, values=tuple(strings))


def _enumerated(key: str, override: Override) -> list[str]:
    """Every value of a choice, a range or a glob, as the command line would have it."""
    try:
        strings = [str(text) for text in override.sweep_string_iterator()]
    except ValueError as error:  # Python's range of step 0
        raise ConfigError(f"{override.input_line}: {error}") from error
    if not strings:
        raise ConfigError(f"{override.input_line} names no value of {key}; a sweep needs at least one")
    return strings


def written(override: Override, value: str) -> str:
    """An override of this key with another value."""
    return f"{override.get_key_element()}={value}" if not override.is_delete() else f"{override.get_key_element()}"
