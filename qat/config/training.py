"""The groups `optimizer`, `trainer`, `logger` and `launch`, and the two training stages."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from qat.config.fields import MISSING, between, one_of


@dataclass
class StageConfig:
    """One training stage: FP32 or QAT.

    Args:
        max_epochs: 0 skips the training of the stage.
        max_steps: stop earlier; null lets the epochs decide.
        lr: null takes 1e-3 for fresh weights and 1e-4 for weights that are loaded; of QAT a tenth of FP32's.
        weight_decay, warmup, decay: see `OptimizerFactory`.
        label_smoothing: in [0, 1).
        gradient_clip_val: largest gradient norm; null does not clip.
        precision: for this stage, as Lightning names it; null takes that of `trainer`.
    """

    max_epochs: int = between(1, 0)
    max_steps: int | None = between(None, 1)
    lr: float | None = None
    weight_decay: float = between(0.0, 0)
    warmup: float = between(0.05, 0, 1)
    decay: str = one_of("cosine", "cosine", "constant")
    label_smoothing: float = between(0.0, 0, 1)
    gradient_clip_val: float | None = between(1.0, 0)
    precision: str | None = None


@dataclass
class OptimizerConfig:
    """What all optimizers have in common: nothing but what is an argument of their class in torch."""

    def arguments(self) -> dict[str, object]:
        """Keyword arguments of the class."""
        return asdict(self)


@dataclass
class AdamConfig(OptimizerConfig):
    """`optimizer=adam`."""

    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = between(1e-8, 0)


@dataclass
class AdamWConfig(AdamConfig):
    """`optimizer=adamw`: weight decay apart from the gradient."""


@dataclass
class SGDConfig(OptimizerConfig):
    """`optimizer=sgd`."""

    momentum: float = between(0.9, 0)
    nesterov: bool = False


@dataclass
class RMSpropConfig(OptimizerConfig):
    """`optimizer=rmsprop`."""

    momentum: float = between(0.9, 0)
    alpha: float = between(0.99, 0, 1)
    eps: float = between(1e-8, 0)


@dataclass
class TimmOptimizerConfig(OptimizerConfig):
    """`optimizer=timm`: any of `timm.optim.list_optimizers()`.

    Args:
        name: such as `lamb` or `lion`.
        options: further arguments of its class.
    """

    name: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, object]:
        """`opt` and the options."""
        return {"opt": self.name, **self.options}


@dataclass
class TrainerConfig:
    """Arguments of Lightning's `Trainer`, under its own names and with its own meaning, for both stages.

    What belongs to a stage is there: `fp32.max_epochs`, `qat.gradient_clip_val`, ...
    """

    accelerator: str = "cpu"
    precision: str = "32-true"
    accumulate_grad_batches: int = between(1, 1)
    gradient_clip_algorithm: str | None = one_of(None, "norm", "value")
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    val_check_interval: Any = None
    check_val_every_n_epoch: int = between(1, 1)
    log_every_n_steps: int = between(10, 1)
    num_sanity_val_steps: int = between(0, -1)
    max_time: str | None = None
    deterministic: Any = None
    benchmark: bool | None = None
    detect_anomaly: bool = False
    profiler: str | None = one_of(None, "simple", "advanced", "pytorch")


@dataclass
class LoggerConfig:
    """`logger=none`, `csv` or `tensorboard`: files in the run folder, or none beside `metrics.jsonl`."""


@dataclass
class CSVConfig(LoggerConfig):
    """`logger=csv`."""


@dataclass
class TensorBoardConfig(LoggerConfig):
    """`logger=tensorboard`."""


@dataclass
class WandbConfig(LoggerConfig):
    """`logger=wandb`.

    Args:
        project, tags: of the run.
        group: of the run; in a sweep null takes the name of its folder.
    """

    project: str = "qat"
    group: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class LaunchConfig:
    """`launch=none`: one process."""


@dataclass
class TorchrunConfig(LaunchConfig):
    """`launch=torchrun`: processes that train together; each takes `data.batch_size` samples of every step.

    Args:
        nproc: processes, called ranks, on this machine.
        nnodes: machines; the same command is given on each.
        node_rank: which of them this is, from 0.
        endpoint: HOST:PORT on the machine of node_rank 0, where all meet.
        max_restarts: how often all ranks are started again, from the last checkpoint, after one has failed.
    """

    nproc: int = between(1, 1)
    nnodes: int = between(1, 1)
    node_rank: int = between(0, 0)
    endpoint: str | None = None
    max_restarts: int = between(0, 0)


@dataclass
class TrialConfig:
    """Where the trial of a search reports its validation metric in QAT; the Optuna sweeper sets it.

    Args:
        storage, study: of Optuna; null for a run that is no trial.
        number: of the trial.
        pruner: see `SearchOptions`.
    """

    storage: str | None = None
    study: str | None = None
    number: int = 0
    pruner: str = "median"
