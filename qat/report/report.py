"""report.json as a type: the contract between runs, README tables, sweeps and loggers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from qat.environment import Environment
from qat.errors import ConfigError
from qat.evaluation.benchmark import Latency
from qat.evaluation.evaluate import Difference
from qat.evaluation.gates import Gate
from qat.files import write_json
from qat.quantization.analysis.coverage import Coverage
from qat.quantization.analysis.parity import LayerParity
from qat.quantization.qparams import QParams

REPORT = "report.json"

#: Significant digits of every number in the file; more than any of them is known to.
DIGITS = 6


def _not_empty(engines: Mapping[str, EngineResult]) -> Mapping[str, EngineResult]:
    if not engines:
        raise ValueError("no engine was evaluated")
    return engines


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """The metric that a run is judged by."""

    name: str
    unit: str = "points"
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Drop:
    """FP32 - INT8 in points, with the 95 % interval of the paired difference."""

    value: float
    ci95: tuple[float, float]

    @classmethod
    def of(cls, difference: Difference) -> Drop:
        return cls(value=difference.value, ci95=difference.ci95)


@dataclass(frozen=True, kw_only=True)
class EngineResult:
    """One engine: its metric, how often it decides as the reference does, and its latency beside FP32's.

    Args:
        speedup: median of FP32 eager over that of this engine, measured interleaved.
    """

    int8: float
    agreement: float
    agreement_samples: int
    latency_ms: Latency
    fp32_latency_ms: Latency
    speedup: float


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A sample on which FP32 and INT8 decide differently, in words."""

    sample: str
    fp32: str
    int8: str
    truth: str = ""


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One tensor on a grid.

    Args:
        low, high: the range that its grid covers.
        max_steps: largest deviation of INT8 from the simulation given the same input, in grid steps.
        differing: share of its values that deviate given the same input.
        sqnr_db: of the simulation against INT8 end to end; None where they are equal.
        float_db: of INT8 against float end to end; None where they are equal, or nobody asked.
    """

    layer: str
    tensor: str
    low: float
    high: float
    max_steps: int
    differing: float
    sqnr_db: float | None
    float_db: float | None = None


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What the fake-quantized network says against INT8: metric - INT8's in points, and the share of same predictions."""

    delta: float
    agreement: float


@dataclass(frozen=True, kw_only=True)
class ArtifactSize:
    """The artifact: its folder in the run folder, its bytes, those of the FP32 weights, and their ratio."""

    path: str
    bytes: int
    fp32_bytes: int
    ratio: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything a run found out; its fields are those of `report.json`.

    Args:
        stages: the metric of fp32, ptq, fake_quant and int8; `metrics` all of them per stage.
        drop: FP32 - INT8 in the task's metric; `drops` the same in every metric.
        agreement: share of FP32's predictions that INT8 makes as well.
        target: what the INT8 network is made for.
        intervals: 95 % interval of the metric per stage.
        disagreements: some samples on which FP32 and INT8 decide differently.
        layers: one row per tensor of the simulation against INT8, see `layer_rows`.
        training: milliseconds of steps, seconds of preparing and converting.

    What has a default came later than the first reports.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="ignore")

    task: str
    recipe: str
    model: str
    data: str
    n_eval: int
    seed: int
    target: str
    metric: MetricInfo
    stages: Mapping[str, float]
    metrics: Mapping[str, Mapping[str, float]]
    drop: Drop
    simulation: Simulation
    engines: Annotated[Mapping[str, EngineResult], AfterValidator(_not_empty)]
    coverage: Coverage
    training: Mapping[str, float]
    artifact: ArtifactSize
    gates: tuple[Gate, ...]
    environment: Environment
    drops: Mapping[str, Drop] = field(default_factory=dict)
    agreement: float | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    disagreements: Sequence[Disagreement] = ()
    layers: Sequence[LayerRow] = ()

    @property
    def failed(self) -> list[str]:
        """Names of the gates that failed."""
        return [gate.name for gate in self.gates if not gate.passed]

    def to_json(self) -> dict[str, Any]:
        """Plain values, numbers with `DIGITS` digits."""
        content: dict[str, object] = rounded(_ADAPTER.dump_python(self, mode="json"))
        return content

    @classmethod
    def from_json(cls, content: object) -> Report:
        """Read what `to_json` returned; keys that later versions add are passed over.

        Raises:
            ConfigError: it is no report; every key that is missing or of another type is named.
        """
        try:
            return _ADAPTER.validate_python(content)
        except ValidationError as error:
            wrong = [f"{'.'.join(map(str, found['loc'])) or 'it'}: {found['msg']}" for found in error.errors()]
            more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ConfigError(f"not the content of a report: {'; '.join(wrong[:5])}{more}") from None

    def write(self, folder: Path) -> None:
        """Write `report.json`."""
        write_json(folder / REPORT, self.to_json())

    def logged(self) -> dict[str, float]:
        """The numbers under the names that W&B and the log use."""
        first = next(iter(self.engines.values()))
        return {
            **{f"{stage}/{name}": value for stage, values in self.metrics.items() for name, value in values.items()},
            **{f"{stage}/{self.metric.name}": value for stage, value in self.stages.items()},
            "int8/drop": self.drop.value,
            "int8/agreement": first.agreement,
            "int8/speedup": first.speedup,
            "simulation/agreement": self.simulation.agreement,
            "artifact/bytes": float(self.artifact.bytes),
        }


_ADAPTER = TypeAdapter(Report)


def rounded(value: object) -> Any:
    """Plain data with every number to `DIGITS` digits."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def finite(value: float | None) -> float | None:
    """A number that JSON has."""
    return value if value is not None and math.isfinite(value) else None


def layer_rows(rows: Sequence[LayerParity], grids: Mapping[str, QParams]) -> list[LayerRow]:
    """Per tensor on a grid: its range, largest deviation given the same input, and SQNR end to end (None where equal)."""
    return [
        LayerRow(
            layer=row.layer,
            tensor=row.name,
            low=-grids[row.name].zero_point * grids[row.name].scale,
            high=(255 - grids[row.name].zero_point) * grids[row.name].scale,
            max_steps=row.max_steps,
            differing=row.differing,
            sqnr_db=finite(row.sqnr_db),
            float_db=finite(row.float_db),
        )
        for row in rows
    ]
