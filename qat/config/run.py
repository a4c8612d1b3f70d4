"""The configuration of a run, as plain typed values. Hydra fills it in the entry layer; nothing below knows Hydra.

Every field is a key of `qat-train`; a recipe is a YAML file with some of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from qat.config.data import DataConfig, DigitsConfig
from qat.config.fields import between, one_of
from qat.config.models import ModelConfig, Pretrained, TimmConfig
from qat.config.training import (
    AdamWConfig,
    LaunchConfig,
    LoggerConfig,
    OptimizerConfig,
    StageConfig,
    TrainerConfig,
    TrialConfig,
)


@dataclass
class TaskConfig:
    """What the model is for.

    Args:
        name: `auto` takes the task that reads the data.
        metric: what counts as the task's metric; null takes its first one.
    """

    name: str = "auto"
    metric: str | None = None


@dataclass
class QuantizationConfig:
    """How the model becomes INT8.

    Args:
        target: `x86` (every x86 CPU), `x86_vnni`, `arm` or `any`; quantization=NAME sets it.
        observer: of the ranges.
        keep_float: patterns of layers that stay float.
        calibration_batches: batches for PTQ.
        bias_correction: let biases take back the mean shift of rounded weights.
        smoothing: move outlier channels behind a norm into the weights that read them.
        dropout: drop in QAT what the model drops in FP32 training.
        quantize_from, freeze_ranges_at: see `QATSchedule`.
    """

    target: str = "x86"
    observer: str = one_of("histogram", "moving_average", "minmax", "histogram")
    keep_float: list[str] = field(default_factory=list)
    calibration_batches: int = between(8, 1)
    bias_correction: bool = True
    smoothing: bool = True
    dropout: bool = True
    quantize_from: float = between(0.0, 0, 1)
    freeze_ranges_at: float = between(0.0, 0, 1)


@dataclass
class GateConfig:
    """What must hold.

    Args:
        max_drop: accepted drop from FP32 in points; null accepts any.
        enforce: end with exit code 4 when a gate fails.
        parity_samples: test samples for the layer-by-layer comparison.
        reference_samples: test samples that the slow reference engine decides; null takes all.
    """

    max_drop: float | None = 1.0
    enforce: bool = True
    parity_samples: int = between(32, 1)
    reference_samples: int | None = between(1000, 1)


@dataclass
class BenchmarkConfig:
    """Latency measurement: batch size, tokens of a text, rounds and threads (null keeps PyTorch's choice)."""

    batch_size: int = between(1, 1)
    sequence_length: int = between(128, 1)
    repeats: int = between(50, 1)
    threads: int | None = between(None, 1)


@dataclass
class Config:
    """A run.

    Args:
        task, model, data, optimizer, trainer, quantization, logger, launch: groups; GROUP=CHOICE takes another one.
        callbacks: Lightning callbacks by any name, each a class (`_target_`) with its arguments; for both stages.
        seed: of weights, order and augmentation.
        engines: on which the INT8 model is evaluated and timed; the first counts as `int8`.
        output: the run folder; for `qat-export` the artifact folder.
        artifact, checkpoint: what `qat-evaluate`, `qat-inspect`, `qat-benchmark` and `qat-export` look at.
        resume: continue the interrupted run in `output`.
        baseline: folder of another run whose FP32 weights are taken instead of training them.
        trial: set in a search.
        progress: show progress bars.
    """

    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=TimmConfig)
    data: DataConfig = field(default_factory=DigitsConfig)
    optimizer: OptimizerConfig = field(default_factory=AdamWConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)
    fp32: StageConfig = field(default_factory=lambda: StageConfig(max_epochs=10))
    qat: StageConfig = field(default_factory=lambda: StageConfig(max_epochs=2))
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    engines: list[str] = field(default_factory=lambda: ["fbgemm", "x86"])
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    trial: TrialConfig = field(default_factory=TrialConfig)
    recipe: str = "custom"
    seed: int = between(0, 0)
    output: str = "runs/run"
    artifact: str | None = None
    checkpoint: str | None = None
    resume: bool = False
    baseline: str | None = None
    progress: bool = True


#: Peak learning rates of FP32 training where none is given: of fresh weights, and of weights that are loaded.
FRESH_RATE, LOADED_RATE = 1e-3, 1e-4


def with_rates(config: Config) -> Config:
    """The configuration with the learning rates that it leaves open: QAT's is a tenth of FP32's."""
    loaded = config.model.path is not None or (isinstance(config.model, Pretrained) and config.model.pretrained)
    fp32 = config.fp32.lr if config.fp32.lr is not None else LOADED_RATE if loaded else FRESH_RATE
    qat = config.qat.lr if config.qat.lr is not None else fp32 / 10
    return replace(config, fp32=replace(config.fp32, lr=fp32), qat=replace(config.qat, lr=qat))
