"""The flow of a training run, one readable function per step.

config -> model, data -> FP32 -> prepare -> calibrate (PTQ) -> QAT -> convert -> engines -> gates -> artifact -> report
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import yaml
from rich.console import Console
from torch import nn

from qat.config import Config, refuse_mistakes, to_record, with_rates
from qat.environment import environment
from qat.errors import EngineError
from qat.evaluation.gates import enforce
from qat.files import write_json, write_text
from qat.pipeline.assess import assess
from qat.pipeline.run import Run, open_run, prepare_model, score
from qat.pipeline.run_folder import run_folder
from qat.pipeline.stages import fit_options, load_baseline, optimizer_of, time_steps, train_fp32, train_qat
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import ENGINES, check_engines, lower
from qat.quantization.graph.capture import Traced, trace
from qat.quantization.prepared import PreparedModel
from qat.quantization.schedule import QATSchedule
from qat.ranks import leads, own_share, world_size
from qat.report.html import render
from qat.report.report import Report
from qat.report.table import print_summary
from qat.training.callbacks.build import build_callbacks
from qat.training.callbacks.preemption import ends_when_told
from qat.training.fit import make_trainer
from qat.training.loggers.build import closed_on_error, finish
from qat.training.loggers.metrics_log import append

_LOG = logging.getLogger(__name__)


def train(config: Config, *, overrides: list[str] | None = None, console: Console | None = None) -> Report | None:
    """Run the whole flow and return what `report.json` holds; None on a rank that only trains.

    Raises:
        QatError: bad configuration or input (2), divergence (3), a failed gate (4); the number is its `exit_code`.
    """
    check_engines(config.engines, config.quantization.target)
    refuse_mistakes(config)
    config = with_rates(config)
    build_callbacks(config.callbacks)  # what they cannot take is said before data and model are built
    output = Path(config.output)
    with ends_when_told(output), run_folder(output, resume=config.resume) as folder, _train_log(folder / "train.log"):
        run = open_run(config, folder, console or Console(), overrides or [])
        with closed_on_error(run.loggers):
            return run_stages(run, folder, overrides or [])


def run_stages(run: Run, folder: Path, overrides: list[str]) -> Report | None:
    """FP32 -> PTQ -> QAT -> INT8 -> report, see `train`."""
    config = run.config
    network = run.model.module
    if config.baseline is not None:
        load_baseline(network, Path(config.baseline))
    traced, trace_s = preflight(run, network)
    if leads():
        _write_inputs(config, folder, overrides)
    _LOG.info("%s on %s, %d training and %d test samples", run.model.name, run.data.name, run.data.n_train, run.data.n_test)
    train_fp32(run, network)
    stages = {"fp32": score(run, network.eval(), "fp32")} if leads() else {}
    prepared, place_s = prepare_and_calibrate(run, network, traced)
    if leads():
        stages["ptq"] = score(run, lower(convert(prepared), config.engines[0]), "ptq")
    step_times = time_steps(run, network, prepared)
    train_qat(run, prepared)
    if not leads():
        return None  # the other ranks have trained; what follows is measured and written once
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
        training={**step_times, "prepare_s": trace_s + place_s, "convert_s": convert_s},
        folder=folder,
    )
    append(folder / "metrics.jsonl", {"stage": "summary", "step": None, **report.logged()})
    report.write(folder)
    write_text(folder / "report.html", render(report, sorted((folder / "plots").glob("*"))))
    finish(run.loggers, report)
    print_summary(report, run.console)
    run.console.print(f"run folder: {folder}", highlight=False)
    if config.gate.enforce:
        enforce(report.gates)
    return report


def preflight(run: Run, network: nn.Module) -> tuple[Traced, float]:
    """Trace, place, calibrate on two samples and convert before any training: what cannot work fails in seconds.

    Returns:
        The traced network and the seconds that tracing took.
    """
    config = run.config
    QATSchedule(quantize_from=config.quantization.quantize_from, freeze_ranges_at=config.quantization.freeze_ranges_at)
    for stage in (config.fp32, config.qat):
        run.task.smoothed(stage.label_smoothing)
        optimizer_of(run, stage)
        make_trainer(fit_options(run, stage), Path(config.output), logger=False, enable_checkpointing=False)
    start = time.perf_counter()
    traced = trace(network, run.model.example_inputs, dynamic_dims=run.model.dynamic_dims)
    seconds = time.perf_counter() - start
    prepared = prepare_model(run, network, traced)
    first = run.data.calibration_batches(min(1, config.quantization.calibration_batches))[0]
    calibrate(prepared, [tuple(x[:2] for x in first)], smoothing=False)  # two samples tell nothing of outliers
    program = convert(prepared)
    for engine in config.engines:
        if refusal := ENGINES[engine].refusal(program):
            raise EngineError(f"engine {engine!r} cannot run this model: {refusal}")
    return traced, seconds


def prepare_and_calibrate(run: Run, network: nn.Module, traced: Traced) -> tuple[PreparedModel, float]:
    """Place and calibrate; returns the prepared model and the seconds that folding and placement took."""
    start = time.perf_counter()
    prepared = prepare_model(run, network, traced)
    seconds = time.perf_counter() - start
    config = run.config.quantization
    batches = run.data.calibration_batches(config.calibration_batches * world_size())  # as many samples as of global batches
    calibrate(prepared, own_share(batches), bias_correction=config.bias_correction, smoothing=config.smoothing)
    return prepared, seconds


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


def _write_inputs(config: Config, folder: Path, overrides: list[str]) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(to_record(config), sort_keys=False))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    write_json(folder / "env.json", asdict(environment()))
