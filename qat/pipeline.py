"""The flow of a training run, one readable function per step.

    config -> model, data -> FP32 -> prepare -> calibrate (PTQ) -> QAT -> convert -> engines -> gates -> artifact -> report
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.loggers import Logger
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from qat.artifact import save_artifact, size_bytes, verify
from qat.benchmark import measure
from qat.callbacks.loggers import make_loggers
from qat.callbacks.metrics_log import JsonLinesLogger, append
from qat.callbacks.quantization import ScheduleCallback
from qat.config import Config, StageConfig
from qat.data import ImageData, build_data, build_source
from qat.errors import ArtifactError, ConfigError, EngineError, near
from qat.evaluate import Evaluation, agreement, evaluate, paired_difference
from qat.gates import Gate, budget_gate, enforce, kernel_gate, simulation_gate
from qat.models import FloatModel, build_model
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.coverage import coverage
from qat.quantization.engines import ENGINES, lower
from qat.quantization.prepare import PreparedModel, prepare
from qat.quantization.program import Int8Program
from qat.quantization.schedule import QATSchedule
from qat.report.report import EngineResult, Report, environment, write_json
from qat.report.table import print_summary
from qat.run_folder import run_folder
from qat.tasks import OptimizerFactory, Task, build_task
from qat.tasks.fit import FitOptions, fit


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every step of a run needs."""

    config: Config
    folder: Path
    console: Console
    data: ImageData
    model: FloatModel
    loggers: list[Logger]


def train(config: Config, *, overrides: list[str] | None = None, console: Console | None = None) -> dict[str, Any]:
    """Run the whole flow and return the content of `report.json`.

    Raises:
        QatError: bad configuration or input (2), divergence (3), a failed gate (4); the number is its `exit_code`.
    """
    _check_engines(config)
    with run_folder(Path(config.output), resume=config.resume) as folder:
        _write_inputs(config, folder, overrides or [])
        run = open_run(config, folder, console or Console())
        network = run.model.module
        preflight(run, network)
        fp32 = train_fp32(run, network)
        prepared, prepare_s = prepare_and_calibrate(run, network)
        ptq = score(run, lower(convert(prepared), config.engines[0]), "ptq")
        step_times = time_steps(run, network, prepared)
        train_qat(run, prepared)
        simulated = score(run, prepared.eval(), "fake_quant")
        start = time.perf_counter()
        program = convert(prepared)
        convert_s = time.perf_counter() - start
        report = assess(
            run,
            network,
            prepared,
            program,
            stages={"fp32": fp32, "ptq": ptq, "fake_quant": simulated},
            training={**step_times, "prepare_s": prepare_s, "convert_s": convert_s},
        )
        for logger in run.loggers:
            logger.log_metrics(report.metrics())
            logger.finalize("success")
        append(folder / "metrics.jsonl", {"stage": "summary", "step": None, **report.metrics()})
        content = report.to_json()
        write_json(folder / "report.json", content)
        print_summary(content, run.console)
        run.console.print(f"run folder: {folder}", highlight=False)
        if config.gate.enforce:
            enforce(report.gates)
        return content


def open_run(config: Config, folder: Path, console: Console) -> Run:
    """Seed everything and build data and model."""
    pl.seed_everything(config.seed, workers=True, verbose=False)
    options = dict(config.data.options)
    if config.data.root is not None:
        options["root"] = config.data.root
    source = build_source(config.data.source, **options)
    model = build_model(
        config.model.source,
        name=config.model.name,
        num_classes=len(source.labels),
        pretrained=config.model.pretrained,
        path=config.model.path,
        image_size=config.model.image_size,
        in_channels=config.model.in_channels,
        mean=config.model.mean,
        std=config.model.std,
        options=config.model.options,
    )
    data = build_data(
        source,
        preprocessing=model.preprocessing,
        seed=config.seed,
        batch_size=config.data.batch_size,
        eval_batch_size=config.data.eval_batch_size,
        workers=config.data.workers,
        augment=config.data.augment,
        val_fraction=config.data.val_fraction,
        limit_train=config.data.limit_train,
        limit_val=config.data.limit_val,
        limit_test=config.data.limit_test,
        corrupt_budget=config.data.corrupt_budget,
    )
    for name in data.corrupt:
        console.print(f"[yellow]left out[/] {name}", highlight=False)
    loggers = make_loggers(
        config.logger, folder=folder, project=config.project, run_name=config.recipe, config=asdict(config)
    )
    return Run(config=config, folder=folder, console=console, data=data, model=model, loggers=loggers)


def preflight(run: Run, network: nn.Module) -> None:
    """Capture, place, calibrate on two images and convert before any training: what cannot work fails in seconds."""
    config = run.config.quantization
    QATSchedule(quantize_from=config.quantize_from, freeze_ranges_at=config.freeze_ranges_at)
    for stage in (run.config.fp32, run.config.qat):
        _task(run, network, stage)
    prepared = _prepare(run, network)
    calibrate(prepared, [run.data.calibration_batches(1)[0][:2]])
    program = convert(prepared)
    for engine in run.config.engines:
        if refusal := ENGINES[engine].refusal(program):
            raise EngineError(f"engine {engine!r} cannot run this model: {refusal}")


def train_fp32(run: Run, network: nn.Module) -> Evaluation:
    """Train the float baseline, or take it as loaded, and evaluate it."""
    _fit_stage(run, network, run.config.fp32, "fp32")
    return score(run, network.eval(), "fp32")


def prepare_and_calibrate(run: Run, network: nn.Module) -> tuple[PreparedModel, float]:
    """Capture, place and calibrate; returns the prepared model and the seconds that capture and placement took."""
    start = time.perf_counter()
    prepared = _prepare(run, network)
    seconds = time.perf_counter() - start
    calibrate(prepared, run.data.calibration_batches(run.config.quantization.calibration_batches))
    return prepared, seconds


def _prepare(run: Run, network: nn.Module) -> PreparedModel:
    config = run.config.quantization
    return prepare(
        network,
        run.model.example_inputs,
        backend=config.backend,
        target=config.target,
        observer=config.observer,
        keep_float=config.keep_float,
    )


def train_qat(run: Run, prepared: PreparedModel) -> None:
    """Fine-tune the prepared network, then fix its ranges."""
    config = run.config.quantization
    schedule = QATSchedule(quantize_from=config.quantize_from, freeze_ranges_at=config.freeze_ranges_at)
    _fit_stage(run, prepared, run.config.qat, "qat", ScheduleCallback(prepared, schedule))
    prepared.set_observing_(False)
    prepared.set_quantizing_(True)


def assess(
    run: Run,
    network: nn.Module,
    prepared: PreparedModel,
    program: Int8Program,
    *,
    stages: dict[str, Evaluation],
    training: dict[str, float],
) -> Report:
    """Evaluate INT8 on every engine, check the gates, write the artifact and measure it."""
    config = run.config
    sample = next(iter(run.data.test_dataloader()))[0][: config.gate.parity_samples]
    limit = config.gate.reference_samples
    reference = score(run, lower(program, "reference"), "int8/reference", limit=limit)
    gates: list[Gate] = []
    results: dict[str, Evaluation] = {}
    for engine in config.engines:
        results[engine] = score(run, lower(program, engine), f"int8/{engine}")
        gates.append(kernel_gate(program, engine, [sample], reference=reference, result=results[engine]))
    int8 = results[config.engines[0]]
    drop = paired_difference(stages["fp32"], int8)
    gates.append(simulation_gate(prepared, program, [sample], simulated=stages["fake_quant"], int8=int8))
    gates.append(budget_gate(drop, config.gate.max_drop))
    latencies = time_engines(run, network, program, sample)
    metrics = {**{name: stage.metric for name, stage in stages.items()}, "int8": int8.metric}
    artifact = write_artifact(run, program, sample[:2], metrics, network)
    return Report(
        task=config.task,
        recipe=config.recipe,
        model=run.model.name,
        data=f"{run.data.name} ({run.data.fingerprint})",
        n_eval=int8.count,
        seed=config.seed,
        metric=_task(run, network, config.qat).metric,
        stages=metrics,
        drop=drop,
        simulation_delta=stages["fake_quant"].metric - int8.metric,
        simulation_agreement=agreement(stages["fake_quant"], int8),
        engines={
            engine: EngineResult(
                int8=result.metric,
                agreement=agreement(reference, result),
                agreement_samples=reference.count,
                latency=latencies[engine],
                fp32_latency=latencies["fp32"],
            )
            for engine, result in results.items()
        },
        coverage=coverage(prepared, [sample[:1]]),
        training=training,
        artifact=artifact,
        gates=tuple(gates),
        environment=environment(),
    )


def write_artifact(
    run: Run, program: Int8Program, golden: Tensor, metrics: dict[str, float], network: nn.Module
) -> dict[str, Any]:
    """Save the artifact, load it again and replay its golden outputs."""
    folder = run.folder / "artifact"
    save_artifact(
        program,
        folder,
        golden_inputs=[golden],
        metadata={
            "task": run.config.task,
            "model": run.model.name,
            "labels": list(run.data.labels),
            "preprocessing": run.model.preprocessing,
            "metrics": {name: round(value, 4) for name, value in metrics.items()},
            "recipe": run.config.recipe,
            "commit": environment()["commit"],
        },
    )
    for engine in run.config.engines:
        found = verify(folder, engine)
        if not found.passed:
            raise ArtifactError(f"the saved artifact does not reproduce its golden outputs on {engine}: {found}")
    fp32_bytes = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    size = size_bytes(folder)
    return {"path": folder.name, "bytes": size, "fp32_bytes": fp32_bytes, "ratio": round(size / fp32_bytes, 4)}


def score(
    run: Run, forward: Callable[..., Any], stage: str, *, limit: int | None = None
) -> Evaluation:
    """Evaluate on the test set under a progress bar and log the metric as `<stage>/<metric>`."""
    judge = _task(run, nn.Identity(), run.config.qat)
    total = min(run.data.n_test, limit or run.data.n_test)
    with _progress(run, f"evaluate {stage}", total) as advance:
        found = evaluate(forward, run.data.test_dataloader(), judge, limit=limit, progress=advance)
    append(run.folder / "metrics.jsonl", {"stage": stage, "step": None, f"{stage}/{judge.metric}": found.metric})
    return found


def time_engines(run: Run, network: nn.Module, program: Int8Program, sample: Tensor) -> dict[str, Any]:
    """Latency of FP32 eager and of every engine, interleaved."""
    config = run.config.benchmark
    x = sample[:1].expand(config.batch_size, *sample.shape[1:]).contiguous()
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads or threads)
    try:
        models = {"fp32": network.eval(), **{engine: lower(program, engine) for engine in run.config.engines}}
        with _progress(run, "benchmark", config.repeats + 5) as advance:
            calls = {name: (lambda model=model: model(x)) for name, model in models.items()}
            return dict(measure(calls, repeats=config.repeats, progress=lambda: advance(1)))
    finally:
        torch.set_num_threads(threads)


def time_steps(run: Run, network: nn.Module, prepared: PreparedModel, *, rounds: int = 5) -> dict[str, float]:
    """Median training step of FP32 and of QAT on copies, interleaved, forward to optimizer step."""
    batch = next(iter(run.data.train_dataloader()))
    steps: dict[str, Callable[[], None]] = {}
    for name, model in (("fp32", copy.deepcopy(network).train()), ("qat", copy.deepcopy(prepared).train())):
        if isinstance(model, PreparedModel):
            model.set_observing_(run.config.quantization.freeze_ranges_at > 0)
        task = _task(run, model, run.config.qat)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

        def step(task: Task = task, optimizer: Any = optimizer) -> None:
            with torch.enable_grad():
                optimizer.zero_grad()
                task.loss(task(*task.inputs(batch)), batch).backward()
                optimizer.step()

        steps[name] = step
    found = measure(steps, repeats=rounds, warmup=1)
    fp32, qat = found["fp32"].p50, found["qat"].p50
    return {"fp32_step_ms": fp32, "qat_step_ms": qat, "step_ratio": qat / fp32}


def _fit_stage(run: Run, network: nn.Module, stage: StageConfig, name: str, *callbacks: pl.Callback) -> None:
    if stage.epochs == 0:
        return
    run.console.rule(f"{name}: {stage.epochs} epochs, lr {stage.lr}")
    fit(
        _task(run, network, stage),
        run.data,
        FitOptions(
            epochs=stage.epochs,
            max_steps=stage.max_steps,
            accelerator=run.config.accelerator,
            precision=run.config.precision,
            gradient_clip=stage.gradient_clip,
            progress=run.config.progress,
        ),
        folder=run.folder / "checkpoints" / name,
        callbacks=callbacks,
        loggers=[JsonLinesLogger(run.folder / "metrics.jsonl", stage=name), *run.loggers],
    )


def _task(run: Run, network: nn.Module, stage: StageConfig) -> Task:
    return build_task(
        run.config.task,
        model=network,
        num_classes=run.data.num_classes,
        label_smoothing=stage.label_smoothing,
        optimizer=OptimizerFactory(
            name=stage.optimizer,
            lr=stage.lr,
            weight_decay=stage.weight_decay,
            momentum=stage.momentum,
            warmup=stage.warmup,
            decay=stage.decay,
        ),
    )


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


@contextmanager
def _progress(run: Run, title: str, total: int) -> Iterator[Callable[[int], None]]:
    with Progress(console=run.console, transient=True, disable=not run.config.progress) as bar:
        task = bar.add_task(title, total=total)
        yield lambda n: bar.advance(task, n)
