"""Latency, measured so that it can be believed: interleaved, warmed up, medians, threads stated."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from qat.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds per call: median and 95th percentile."""

    p50: float
    p95: float


def measure(
    candidates: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 50,
    warmup: int = 5,
    progress: Callable[[], None] | None = None,
) -> dict[str, Latency]:
    """Call every candidate in turn, `repeats` rounds, so that drift of the machine hits all alike.

    Args:
        candidates: name -> a call without arguments.
        warmup: rounds that are not counted.
        progress: called after every round.
    """
    if repeats < 1:
        raise ConfigError(f"benchmark.repeats must be at least 1, got {repeats}")
    times: dict[str, list[float]] = {name: [] for name in candidates}
    with torch.no_grad():
        for round_ in range(warmup + repeats):
            for name, call in candidates.items():
                start = time.perf_counter()
                call()
                if round_ >= warmup:
                    times[name].append(1e3 * (time.perf_counter() - start))
            if progress is not None:
                progress()
    return {
        name: Latency(p50=float(np.percentile(values, 50)), p95=float(np.percentile(values, 95)))
        for name, values in times.items()
    }
