"""The configuration of a run, as plain typed values. Hydra fills it in the entry layer; nothing below knows Hydra.

Every field is a key of `qat-train`; a recipe is a YAML file with some of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ModelConfig:
    """The float model.

    Args:
        source: library that builds it, `timm` or `huggingface`.
        name: its name there; of a fresh Hugging Face network its type, such as `bert` or `d_fine`; with `path` what to call it.
        pretrained: download the hub's weights.
        path: a local model folder or checkpoint file to load instead.
        image_size: input height and width in pixels; null takes the model's own.
        head: of a detector on a timm backbone, `fcos` or `retinanet`.
        head_options: `channels` of its pyramid and head, `convs` before each output, `extra_levels`.
        in_channels: input channels.
        mean, std, crop_pct, crop_mode, interpolation: preprocessing; null takes the model's own. Detectors see the whole image:
            crop_mode is `border` (letterbox) or `squash`.
        tokenizer: folder or hub name of another tokenizer than the model's own.
        max_length: tokens that a text may have; null takes as many as the model has positions for.
        options: further arguments of the model's constructor or configuration.
    """

    source: str = "timm"
    name: str | None = None
    pretrained: bool = False
    path: str | None = None
    head: str | None = None
    head_options: dict[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    in_channels: int = 3
    mean: list[float] | None = None
    std: list[float] | None = None
    crop_pct: float | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    tokenizer: str | None = None
    max_length: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataConfig:
    """The data.

    Args:
        source: of images `digits`, `folder` or `huggingface`; of images with boxes `coco` or `shapes`; of text `text`,
            `text_hub` or `grammar`.
        root: local folder, for `folder`, `huggingface`, `coco` and `text`.
        options: further arguments of the source: files, column names, split names, hub name.
        batch_size, eval_batch_size: samples per batch.
        workers: loader processes.
        augment: `none`, `flip`, `flip_crop`, `shift` or `timm`; of images with boxes `none`, `flip`, `ssd` or
            `ssd_any_side_up`.
        augment_options: for `timm`, arguments of its `create_transform`.
        val_fraction: held out of train when there is no validation split.
        limit_train, limit_val, limit_test: use only so many samples.
        corrupt_budget: tolerated share of unreadable images or empty texts.
        verify: decode every image once before the run; otherwise an unreadable one stops it when its turn comes.
        truncation: what happens to a text that the model has no positions for: `truncate` (counted and said) or `refuse`.
        stride: tokens that neighbouring windows of a long context share (question answering).
    """

    source: str = "digits"
    root: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 64
    eval_batch_size: int | None = None
    workers: int = 0
    augment: str = "none"
    augment_options: dict[str, Any] = field(default_factory=dict)
    val_fraction: float = 0.1
    limit_train: int | None = None
    limit_val: int | None = None
    limit_test: int | None = None
    corrupt_budget: float = 0.01
    verify: bool = True
    truncation: str = "truncate"
    stride: int = 128


@dataclass
class StageConfig:
    """One training stage: FP32 or QAT.

    Args:
        epochs: 0 skips the training of the stage.
        max_steps: stop earlier; null lets the epochs decide.
        optimizer: `adamw`, `adam`, `sgd` or `rmsprop`.
        lr, weight_decay, momentum, warmup, decay: see `OptimizerFactory`.
        label_smoothing: in [0, 1).
        gradient_clip: largest gradient norm; null does not clip.
        precision: for this stage, as Lightning names it; null takes that of the run.
    """

    epochs: int = 1
    max_steps: int | None = None
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    warmup: float = 0.05
    decay: str = "cosine"
    label_smoothing: float = 0.0
    gradient_clip: float | None = 1.0
    precision: str | None = None


@dataclass
class QuantizationConfig:
    """How the model becomes INT8.

    Args:
        target: `x86` (every x86 CPU), `x86_vnni`, `arm` or `any`; quantization=NAME sets it.
        observer: `moving_average`, `minmax` or `histogram`.
        keep_float: patterns of layers that stay float.
        calibration_batches: batches for PTQ.
        bias_correction: let biases take back the mean shift of rounded weights.
        quantize_from, freeze_ranges_at: see `QATSchedule`.
    """

    target: str = "x86"
    observer: str = "histogram"
    keep_float: list[str] = field(default_factory=list)
    calibration_batches: int = 8
    bias_correction: bool = True
    quantize_from: float = 0.0
    freeze_ranges_at: float = 0.0


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
    parity_samples: int = 32
    reference_samples: int | None = 1000


@dataclass
class BenchmarkConfig:
    """Latency measurement: batch size, tokens of a text, rounds and threads (null keeps PyTorch's choice)."""

    batch_size: int = 1
    sequence_length: int = 128
    repeats: int = 50
    threads: int | None = None


@dataclass
class LaunchConfig:
    """Processes that train together (`launch=torchrun`); each takes `data.batch_size` samples of every step.

    Args:
        kind: `none` or `torchrun`.
        nproc: processes, called ranks, on this machine.
        nnodes: machines; the same command is given on each.
        node_rank: which of them this is, from 0.
        endpoint: HOST:PORT on the machine of node_rank 0, where all meet.
        max_restarts: how often all ranks are started again, from the last checkpoint, after one has failed.
    """

    kind: str = "none"
    nproc: int = 1
    nnodes: int = 1
    node_rank: int = 0
    endpoint: str | None = None
    max_restarts: int = 0


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


@dataclass
class Config:
    """A run.

    Args:
        task: `classification` (of images), `detection`, `text_classification`, `token_classification` or `question_answering`.
        metric: what counts as the task's metric; null takes its first one.
        seed: of weights, order and augmentation.
        engines: on which the INT8 model is evaluated and timed; the first counts as `int8`.
        accelerator, precision: for training, as Lightning names them.
        logger: `none`, `csv`, `tensorboard` or `wandb`.
        project, group, tags: of the W&B run; in a sweep the group is the name of its folder.
        output: the run folder; for `qat-export` the artifact folder.
        artifact, checkpoint: what `qat-evaluate`, `qat-inspect`, `qat-benchmark` and `qat-export` look at.
        resume: continue the interrupted run in `output`.
        baseline: folder of another run whose FP32 weights are taken instead of training them.
        launch: in how many processes to train.
        trial: set in a search.
        progress: show progress bars.
    """

    task: str = "classification"
    metric: str | None = None
    recipe: str = "custom"
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    fp32: StageConfig = field(default_factory=StageConfig)
    qat: StageConfig = field(default_factory=lambda: StageConfig(lr=1e-4))
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    engines: list[str] = field(default_factory=lambda: ["fbgemm", "x86"])
    accelerator: str = "cpu"
    precision: str = "32-true"
    logger: str = "none"
    project: str = "qat"
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    output: str = "runs/run"
    artifact: str | None = None
    checkpoint: str | None = None
    resume: bool = False
    baseline: str | None = None
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    trial: TrialConfig = field(default_factory=TrialConfig)
    progress: bool = True
