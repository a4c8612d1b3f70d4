"""report.json, as the design writes it down: every key, and what stands behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LATENCY = {"p50": float, "p95": float}

REPORT: dict[str, Any] = {
    "task": str,
    "model": str,
    "data": str,
    "n_eval": int,
    "metric": {"name": str, "unit": str, "higher_is_better": bool},
    "stages": {"fp32": float, "ptq": float, "fake_quant": float, "int8": float},
    "metrics": {"fp32": dict, "ptq": dict, "fake_quant": dict, "int8": dict},
    "drop": {"value": float, "ci95": list},
    "drops": dict,
    "agreement": float,
    "disagreements": list,
    "simulation": {"delta": float, "agreement": float},
    "engines": dict,
    "coverage": {"macs_int8": float, "float_ops": list},
    "training": {"fp32_step_ms": float, "qat_step_ms": float, "step_ratio": float, "prepare_s": float, "convert_s": float},
    "artifact": {"path": str, "bytes": int, "fp32_bytes": int, "ratio": float},
    "environment": {"cpu": str, "threads": int, "isa": str, "torch": str},
}

ENGINE: dict[str, Any] = {
    "int8": float,
    "agreement": float,
    "latency_ms": _LATENCY,
    "fp32_latency_ms": _LATENCY,
    "speedup": float,
}


def check_report(report: Mapping[str, Any]) -> None:
    """Raise AssertionError, naming the key, when something is missing or of another type."""
    _check(report, REPORT, "report")
    assert report["engines"], "report.engines is empty"
    for name, engine in report["engines"].items():
        _check(engine, ENGINE, f"report.engines.{name}")
    for op in report["coverage"]["float_ops"]:
        _check(op, {"op": str, "node": str, "reason": str}, "report.coverage.float_ops")
    for sample in report["disagreements"]:
        _check(sample, {"sample": str, "truth": str, "fp32": str, "int8": str}, "report.disagreements")
    low, high = report["drop"]["ci95"]
    assert low <= high


def _check(value: Any, expected: Any, where: str) -> None:
    if isinstance(expected, Mapping):
        assert isinstance(value, Mapping), f"{where} is no object"
        for key, inner in expected.items():
            assert key in value, f"{where} lacks {key!r}"
            _check(value[key], inner, f"{where}.{key}")
    else:
        assert isinstance(value, expected), f"{where} is {value!r}, not {expected.__name__}"
