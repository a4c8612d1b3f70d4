"""What a search looks for: numbers of `report.json` that were measured on the INT8 model, on real kernels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from qat.errors import ConfigError

MAXIMIZE, MINIMIZE = "maximize", "minimize"

#: Paths into report.json that may be an objective, and which way is better. What FP32, PTQ or the simulation reached is none
#: of them.
MEASURED = {
    "stages.int8": MAXIMIZE,
    "metrics.int8.*": MAXIMIZE,
    "drop.value": MINIMIZE,
    "drops.*.value": MINIMIZE,
    "agreement": MAXIMIZE,
    "engines.*.int8": MAXIMIZE,
    "engines.*.agreement": MAXIMIZE,
    "engines.*.speedup": MAXIMIZE,
    "engines.*.latency_ms.p50": MINIMIZE,
    "engines.*.latency_ms.p95": MINIMIZE,
    "artifact.bytes": MINIMIZE,
    "artifact.ratio": MINIMIZE,
}


def directions(objectives: Iterable[str], engines: Iterable[str]) -> list[str]:
    """`maximize` or `minimize` for each; refuses before any training what cannot be read after it.

    Args:
        objectives: paths into report.json.
        engines: on which the runs are evaluated.

    Raises:
        ConfigError: no objective, one that is not measured on the INT8 model, or an engine that does not run.
    """
    objectives, engines = list(objectives), list(engines)
    if not objectives:
        raise ConfigError("a search needs an objective, for example hydra.sweeper.objectives=[stages.int8]")
    found = []
    for path in objectives:
        direction = next((way for pattern, way in MEASURED.items() if fnmatchcase(path, pattern)), None)
        if direction is None:
            raise ConfigError(
                f"objective {path!r} is nothing that a report measures on the INT8 model. Allowed: {', '.join(MEASURED)} "
                "(* is a metric or an engine); FP32, PTQ and fake-quantized numbers are not what is shipped."
            )
        engine = path.split(".")[1] if path.startswith("engines.") else None
        if engine is not None and engine not in engines:
            raise ConfigError(f"objective {path!r}: the runs use engines={engines}; name one of them")
        found.append(direction)
    return found


def values(objectives: Iterable[str], report: Mapping[str, object]) -> list[float]:
    """The objectives of a finished run; NaN where it measured NaN.

    Args:
        report: content of report.json.

    Raises:
        ConfigError: the report lacks one.
    """
    return [_value(path, report) for path in objectives]


def _value(path: str, report: Mapping[str, object]) -> float:
    found: object = report
    for i, name in enumerate(names := path.split(".")):
        if not isinstance(found, Mapping) or name not in found:
            allowed = ", ".join(found) if isinstance(found, Mapping) else "nothing"
            raise ConfigError(f"objective {path!r}: the report has no {'.'.join(names[: i + 1])!r}; there it has {allowed}")
        found = found[name]
    if not isinstance(found, int | float):
        raise ConfigError(f"objective {path!r} is no number in the report but {type(found).__name__}")
    return float(found)


def finite(numbers: Iterable[float]) -> bool:
    """Whether a search can learn from these."""
    return all(math.isfinite(number) for number in numbers)
