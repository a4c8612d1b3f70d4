"""The stages that train: the FP32 baseline and QAT, in one process or in the ranks of a distributed training."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn

from qat.config import StageConfig, chosen
from qat.errors import ConfigError, RangesError
from qat.evaluation.benchmark import measure
from qat.pipeline.run import Run
from qat.quantization.prepared import PreparedModel
from qat.quantization.schedule import QATSchedule
from qat.ranks import differences, leads, together, world_size
from qat.training.callbacks.build import build_callbacks
from qat.training.callbacks.checkpoint import load_weights, newest_loadable
from qat.training.callbacks.progress import StageProgress
from qat.training.callbacks.quantization import ScheduleCallback
from qat.training.fit import FitOptions, fit
from qat.training.loggers.build import enter
from qat.training.loggers.metrics_log import JsonLinesLogger
from qat.training.module import TrainingModule
from qat.training.optimizer import OptimizerFactory

_LOG = logging.getLogger(__name__)

#: The stages that train, as people call them.
STAGES = {"fp32": "FP32", "qat": "QAT"}


def load_baseline(network: nn.Module, folder: Path) -> None:
    """Take over the FP32 weights that another run has trained.

    Raises:
        ConfigError: the folder has no FP32 checkpoint, or it is of another model.
    """
    path = newest_loadable(folder / "checkpoints" / "fp32")
    if path is None:
        raise ConfigError(f"baseline={folder}: no FP32 checkpoint there; give the folder of a run that trained FP32")
    try:
        network.load_state_dict(load_weights(path))
    except RuntimeError as error:
        raise ConfigError(f"baseline={folder} is of another model: {str(error)[:500]}") from error


def train_fp32(run: Run, network: nn.Module) -> None:
    """Train the float baseline, or leave it as loaded."""
    if run.config.baseline is not None:
        return
    _fit_stage(run, network, run.config.fp32, "fp32")


def train_qat(run: Run, prepared: PreparedModel) -> None:
    """Fine-tune the prepared network, then fix its ranges."""
    config = run.config.quantization
    schedule = QATSchedule(quantize_from=config.quantize_from, freeze_ranges_at=config.freeze_ranges_at)
    _fit_stage(run, prepared, run.config.qat, "qat", ScheduleCallback(prepared, schedule), *_pruning(run))
    prepared.set_observing_(False)
    prepared.set_quantizing_(True)
    grids = {name: [float(module.scale), int(module.zero_point)] for name, module in prepared.fake_quantizes()}
    if found := differences(grids):
        raise RangesError(f"the ranks hold different ranges after the training: {found}")
    if together():
        _LOG.info("%d ranks hold the same %d ranges", world_size(), len(grids))


def time_steps(run: Run, network: nn.Module, prepared: PreparedModel, *, rounds: int = 5) -> dict[str, float]:
    """Median training step of FP32 and of QAT on copies, interleaved, forward to optimizer step."""
    batch = next(iter(run.data.train_dataloader()))
    steps: dict[str, Callable[[], None]] = {}
    for name, original in (("fp32", network), ("qat", prepared)):
        model = copy.deepcopy(original).train().to(memory_format=torch.channels_last)
        if isinstance(model, PreparedModel):
            model.set_observing_(run.config.quantization.freeze_ranges_at > 0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

        def step(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            with torch.enable_grad():
                optimizer.zero_grad()
                torch.autograd.backward(run.task.loss(model(*run.task.inputs(batch)), batch))
                optimizer.step()

        steps[name] = step
    found = measure(steps, repeats=rounds, warmup=1)
    fp32, qat = found["fp32"].p50, found["qat"].p50
    return {"fp32_step_ms": fp32, "qat_step_ms": qat, "step_ratio": qat / fp32}


def _fit_stage(run: Run, network: nn.Module, stage: StageConfig, name: str, *callbacks: pl.Callback) -> None:
    if stage.max_epochs == 0:
        return
    assert run.folder is not None
    network.to(memory_format=torch.channels_last)  # on CPUs a convolution's training step is twice as fast in this layout
    enter(run.loggers, name)
    run.console.rule(f"{STAGES[name]}: {stage.max_epochs} epochs, lr {stage.lr:.3g}")
    module = TrainingModule(network, run.task.smoothed(stage.label_smoothing), optimizer_of(run, stage))
    shown = [StageProgress(STAGES[name], run.console, f"val/{run.task.metric}")] if run.config.progress and leads() else []
    fit(
        module,
        run.data,
        fit_options(run, stage),
        folder=run.folder / "checkpoints" / name,
        callbacks=[*shown, *callbacks, *build_callbacks(run.config.callbacks)],
        loggers=[JsonLinesLogger(run.folder / "metrics.jsonl", stage=name), *run.loggers] if leads() else [],
    )


def optimizer_of(run: Run, stage: StageConfig) -> OptimizerFactory:
    """How weights move in a stage."""
    assert stage.lr is not None, "rates are settled before a run"
    return OptimizerFactory(
        name=chosen("optimizer", run.config.optimizer),
        arguments=run.config.optimizer.arguments(),
        lr=stage.lr,
        weight_decay=stage.weight_decay,
        warmup=stage.warmup,
        decay=stage.decay,
    )


def fit_options(run: Run, stage: StageConfig) -> FitOptions:
    """How long a stage trains, and on what."""
    trainer = vars(run.config.trainer)
    return FitOptions(
        max_epochs=stage.max_epochs,
        max_steps=stage.max_steps,
        gradient_clip_val=stage.gradient_clip_val,
        trainer={**trainer, "precision": stage.precision or trainer["precision"]},
    )


def _pruning(run: Run) -> list[pl.Callback]:
    """What ends the trial of a search early; nothing outside of one."""
    trial = run.config.trial
    if trial.study is None or trial.storage is None:
        return []
    from qat.sweep.study import open_trial
    from qat.training.callbacks.pruning import Pruning

    return [Pruning(open_trial(trial.storage, trial.study, trial.number, trial.pruner), f"val/{run.task.metric}")]
