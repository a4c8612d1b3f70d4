"""report.json: the contract between runs, README tables, sweeps and loggers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from qat.evaluation.benchmark import Latency
from qat.evaluation.evaluate import Difference
from qat.evaluation.gates import Gate
from qat.quantization.analysis.coverage import Coverage
from qat.quantization.analysis.parity import LayerParity
from qat.quantization.qparams import QParams


@dataclass(frozen=True, kw_only=True)
class EngineResult:
    """One engine: its metric, how often it decides as the reference does, and its latency beside FP32's."""

    int8: float
    agreement: float
    agreement_samples: int
    latency: Latency
    fp32_latency: Latency

    def to_json(self) -> dict[str, Any]:
        return {
            "int8": round(self.int8, 4),
            "agreement": round(self.agreement, 6),
            "agreement_samples": self.agreement_samples,
            "latency_ms": {"p50": round(self.latency.p50, 3), "p95": round(self.latency.p95, 3)},
            "fp32_latency_ms": {"p50": round(self.fp32_latency.p50, 3), "p95": round(self.fp32_latency.p95, 3)},
            "speedup": round(self.fp32_latency.p50 / self.latency.p50, 3),
        }


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A sample on which FP32 and INT8 decide differently, in words."""

    sample: str
    truth: str
    fp32: str
    int8: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything a run found out.

    Args:
        drop: FP32 - INT8 in the task's metric; `drops` the same in every metric.
        agreement: share of FP32's decisions that INT8 makes as well.
        target: what the INT8 network is made for.
        intervals: 95 % interval of the metric per stage.
        disagreements: some samples on which FP32 and INT8 decide differently.
        layers: one row per tensor of the simulation against INT8, see `layer_rows`.
    """

    task: str
    recipe: str
    model: str
    data: str
    n_eval: int
    seed: int
    target: str
    metric: str
    stages: Mapping[str, float]
    drop: Difference
    drops: Mapping[str, Difference]
    agreement: float
    intervals: Mapping[str, tuple[float, float]]
    disagreements: Sequence[Disagreement]
    layers: Sequence[Mapping[str, Any]]
    simulation_delta: float
    simulation_agreement: float
    engines: Mapping[str, EngineResult]
    metrics: Mapping[str, Mapping[str, float]]
    coverage: Coverage
    training: Mapping[str, float]
    artifact: Mapping[str, Any]
    gates: tuple[Gate, ...]
    environment: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "recipe": self.recipe,
            "model": self.model,
            "data": self.data,
            "n_eval": self.n_eval,
            "seed": self.seed,
            "target": self.target,
            "metric": {"name": self.metric, "unit": "points", "higher_is_better": True},
            "stages": {name: round(value, 4) for name, value in self.stages.items()},
            "metrics": {s: {n: round(v, 4) for n, v in values.items()} for s, values in self.metrics.items()},
            "drop": _difference(self.drop),
            "drops": {name: _difference(drop) for name, drop in self.drops.items()},
            "agreement": round(self.agreement, 6),
            "intervals": {name: [round(low, 4), round(high, 4)] for name, (low, high) in self.intervals.items()},
            "disagreements": [asdict(sample) for sample in self.disagreements],
            "layers": [dict(row) for row in self.layers],
            "simulation": {"delta": round(self.simulation_delta, 4), "agreement": round(self.simulation_agreement, 6)},
            "engines": {name: result.to_json() for name, result in self.engines.items()},
            "coverage": {
                "macs": self.coverage.macs,
                "macs_int8": round(self.coverage.macs_int8, 4),
                "integer_ops": self.coverage.integer_ops,
                "float_ops": [asdict(op) for op in self.coverage.float_ops],
            },
            "training": {name: round(value, 4) for name, value in self.training.items()},
            "artifact": dict(self.artifact),
            "gates": [asdict(gate) for gate in self.gates],
            "environment": dict(self.environment),
        }

    def logged(self) -> dict[str, float]:
        """The numbers under the names that W&B and the log use."""
        first = next(iter(self.engines.values()))
        return {
            **{f"{stage}/{name}": value for stage, values in self.metrics.items() for name, value in values.items()},
            **{f"{stage}/{self.metric}": value for stage, value in self.stages.items()},
            "int8/drop": self.drop.value,
            "int8/agreement": first.agreement,
            "int8/speedup": first.fp32_latency.p50 / first.latency.p50,
            "simulation/agreement": self.simulation_agreement,
            "artifact/bytes": float(self.artifact["bytes"]),
        }


def layer_rows(rows: Sequence[LayerParity], grids: Mapping[str, QParams]) -> list[dict[str, Any]]:
    """Per tensor on a grid: its range, largest deviation given the same input, and SQNR end to end (None where equal)."""
    return [
        {
            "layer": row.layer,
            "tensor": row.name,
            "low": -grids[row.name].zero_point * grids[row.name].scale,
            "high": (255 - grids[row.name].zero_point) * grids[row.name].scale,
            "max_steps": row.max_steps,
            "differing": round(row.differing, 6),
            "sqnr_db": round(row.sqnr_db, 2) if math.isfinite(row.sqnr_db) else None,
        }
        for row in rows
    ]


def _difference(difference: Difference) -> dict[str, Any]:
    return {"value": round(difference.value, 4), "ci95": [round(x, 4) for x in difference.ci95]}
