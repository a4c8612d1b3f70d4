"""The flow of a training run, one readable function per step.

config -> model, data -> FP32 -> prepare -> calibrate (PTQ) -> QAT -> convert -> engines -> gates -> artifact -> report
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from rich.console import Console
from torch import nn

from qat.benchmark import measure
from qat.callbacks.checkpoint import load_weights, newest_loadable
from qat.callbacks.loggers import closed_on_error, enter, finish
from qat.callbacks.metrics_log import JsonLinesLogger, append
from qat.callbacks.preemption import ends_when_told
from qat.callbacks.progress import StageProgress
from qat.callbacks.quantization import ScheduleCallback
from qat.config import Config, StageConfig
from qat.errors import ConfigError, EngineError, RangesError, near
from qat.gates import enforce
from qat.pipeline.assess import assess
from qat.pipeline.run import Run, make_task, open_run, prepare_model, score
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import ENGINES, lower
from qat.quantization.prepare import PreparedModel
from qat.quantization.schedule import QATSchedule
from qat.ranks import differences, leads, together, world_size
from qat.report.html import render
from qat.report.report import environment, write_json, write_text
from qat.report.table import print_summary
from qat.run_folder import run_folder
from qat.tasks import Task
from qat.tasks.fit import FitOptions, fit

_LOG = logging.getLogger(__name__)


def train(config: Config, *, overrides: list[str] | None = None, console: Console | None = None) -> dict[str, Any]:
    """Run the whole flow and return the content of `report.json`; {} on a rank that only trains.

    Raises:
        QatError: bad configuration or input (2), divergence (3), a failed gate (4); the number is its `exit_code`.
    """
    _check_engines(config)
    output = Path(config.output)
    with ends_when_told(output), run_folder(output, resume=config.resume) as folder, _train_log(folder / "train.log"):
        run = open_run(config, folder, console or Console(), overrides or [])
        with closed_on_error(run.loggers):
            return run_stages(run, folder, overrides or [])


def run_stages(run: Run, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """FP32 -> PTQ -> QAT -> INT8 -> report, see `train`."""
    config = run.config
    network = run.model.module
    if config.baseline is not None:
        load_baseline(network, Path(config.baseline))
    preflight(run, network)
    if leads():
        _write_inputs(config, folder, overrides)
    _LOG.info("%s on %s, %d training and %d test samples", run.model.name, run.data.name, run.data.n_train, run.data.n_test)
    train_fp32(run, network)
    stages = {"fp32": score(run, network.eval(), "fp32")} if leads() else {}
    prepared, prepare_s = prepare_and_calibrate(run, network)
    if leads():
        stages["ptq"] = score(run, lower(convert(prepared), config.engines[0]), "ptq")
    step_times = time_steps(run, network, prepared)
    train_qat(run, prepared)
    if not leads():
        return {}  # the other ranks have trained; what follows is measured and written once
    stages["fake_quant"] = score(run, prepared.eval(), "fake_quant")
    start = time.perf_counter()
    program = convert(prepared)
    convert_s = time.perf_counter() - start
    report = assess(
        run,
        network,
        prepared,
        program,
        stages=stages,
        training={**step_times, "prepare_s": prepare_s, "convert_s": convert_s},
        folder=folder,
    )
    append(folder / "metrics.jsonl", {"stage": "summary", "step": None, **report.logged()})
    content = report.to_json()
    write_json(folder / "report.json", content)
    write_text(folder / "report.html", render(content, sorted((folder / "plots").glob("*"))))
    finish(run.loggers, content, report.logged())
    print_summary(content, run.console)
    run.console.print(f"run folder: {folder}", highlight=False)
    if config.gate.enforce:
        enforce(report.gates)
    return content


def preflight(run: Run, network: nn.Module) -> None:
    """Capture, place, calibrate on two samples and convert before any training: what cannot work fails in seconds."""
    config = run.config.quantization
    QATSchedule(quantize_from=config.quantize_from, freeze_ranges_at=config.freeze_ranges_at)
    for stage in (run.config.fp32, run.config.qat):
        make_task(run, network, stage)
        _fit_options(run, stage)
    prepared = prepare_model(run, network)
    first = run.data.calibration_batches(min(1, config.calibration_batches))[0]
    calibrate(prepared, [tuple(x[:2] for x in first)])
    program = convert(prepared)
    for engine in run.config.engines:
        if refusal := ENGINES[engine].refusal(program):
            raise EngineError(f"engine {engine!r} cannot run this model: {refusal}")


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


def prepare_and_calibrate(run: Run, network: nn.Module) -> tuple[PreparedModel, float]:
    """Capture, place and calibrate; returns the prepared model and the seconds that capture and placement took."""
    start = time.perf_counter()
    prepared = prepare_model(run, network)
    seconds = time.perf_counter() - start
    config = run.config.quantization
    batches = run.data.calibration_batches(config.calibration_batches)
    calibrate(prepared, batches, bias_correction=config.bias_correction)
    return prepared, seconds


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


def _pruning(run: Run) -> list[pl.Callback]:
    """What ends the trial of a search early; nothing outside of one."""
    trial = run.config.trial
    if trial.study is None or trial.storage is None:
        return []
    from qat.callbacks.pruning import Pruning
    from qat.sweep.study import open_trial

    metric = make_task(run, nn.Identity(), run.config.qat).metric
    return [Pruning(open_trial(trial.storage, trial.study, trial.number, trial.pruner), f"val/{metric}")]


def time_steps(run: Run, network: nn.Module, prepared: PreparedModel, *, rounds: int = 5) -> dict[str, float]:
    """Median training step of FP32 and of QAT on copies, interleaved, forward to optimizer step."""
    batch = next(iter(run.data.train_dataloader()))
    steps: dict[str, Callable[[], None]] = {}
    for name, original in (("fp32", network), ("qat", prepared)):
        model = copy.deepcopy(original).train().to(memory_format=torch.channels_last)
        if isinstance(model, PreparedModel):
            model.set_observing_(run.config.quantization.freeze_ranges_at > 0)
        task = make_task(run, model, run.config.qat)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

        def step(task: Task = task, optimizer: Any = optimizer) -> None:
            with torch.enable_grad():
                optimizer.zero_grad()
                torch.autograd.backward(task.loss(task(*task.inputs(batch)), batch))
                optimizer.step()

        steps[name] = step
    found = measure(steps, repeats=rounds, warmup=1)
    fp32, qat = found["fp32"].p50, found["qat"].p50
    return {"fp32_step_ms": fp32, "qat_step_ms": qat, "step_ratio": qat / fp32}


#: The stages that train, as people call them.
STAGES = {"fp32": "FP32", "qat": "QAT"}


def _fit_stage(run: Run, network: nn.Module, stage: StageConfig, name: str, *callbacks: pl.Callback) -> None:
    if stage.epochs == 0:
        return
    assert run.folder is not None
    network.to(memory_format=torch.channels_last)  # on CPUs a convolution's training step is twice as fast in this layout
    enter(run.loggers, name)
    run.console.rule(f"{STAGES[name]}: {stage.epochs} epochs, lr {stage.lr:.3g}")
    task = make_task(run, network, stage)
    shown = [StageProgress(STAGES[name], run.console, f"val/{task.metric}")] if run.config.progress and leads() else []
    fit(
        task,
        run.data,
        _fit_options(run, stage),
        folder=run.folder / "checkpoints" / name,
        callbacks=[*shown, *callbacks],
        loggers=[JsonLinesLogger(run.folder / "metrics.jsonl", stage=name), *run.loggers] if leads() else [],
    )


def _fit_options(run: Run, stage: StageConfig) -> FitOptions:
    return FitOptions(
        epochs=stage.epochs,
        max_steps=stage.max_steps,
        accelerator=run.config.accelerator,
        precision=stage.precision or run.config.precision,
        gradient_clip=stage.gradient_clip,
    )


@contextmanager
def _train_log(path: Path) -> Iterator[None]:
    """Copy what qat and Lightning log into a file, created when there is something to say; of several ranks the first does."""
    if not leads():
        yield
        return
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("qat", "pytorch_lightning", "py.warnings")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _check_engines(config: Config) -> None:
    """Refuse engines that do not exist or are missing here before any time is spent on training."""
    if not config.engines:
        raise ConfigError("engines is empty; name at least one, for example engines=[fbgemm]")
    for engine in config.engines:
        if engine not in ENGINES:
            raise EngineError(f"unknown engine {engine!r}.{near(engine, ENGINES)}")


def _write_inputs(config: Config, folder: Path, overrides: list[str]) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(asdict(config), sort_keys=False))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    write_json(folder / "env.json", environment())
