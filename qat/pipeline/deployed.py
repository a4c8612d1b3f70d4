"""What can be done with a trained run or an artifact: evaluate, inspect, benchmark, export."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from qat.config import Config
from qat.environment import isa
from qat.errors import ConfigError
from qat.evaluation.benchmark import measure
from qat.pipeline.assess import write_artifact
from qat.pipeline.loading import given, load_prepared, open_artifact, ready_program
from qat.pipeline.run import Judging, benchmark_inputs, open_run, prepare_model, sample_inputs, score
from qat.quantization.analysis.coverage import coverage
from qat.quantization.analysis.latency import described, latency
from qat.quantization.analysis.parity import LayerParity, engine_parity, simulation_parity
from qat.quantization.calibrate import calibrate
from qat.quantization.convert import convert
from qat.quantization.engines import check_engines, lower, saturation
from qat.quantization.layouts import Kind
from qat.quantization.program.program import Int8Program
from qat.quantization.qparams import QParams
from qat.report.report import finite


def evaluate_deployed(config: Config, console: Console | None = None) -> dict[str, float]:
    """Evaluate `artifact`, or the QAT `checkpoint`, on the recipe's test set; returns the metric per engine.

    Raises:
        ConfigError: neither or both are given.
        DataError: the data has other labels than the artifact.
    """
    console = console or Console()
    program = ready_program(config)
    judging: Judging
    models: dict[str, Callable[..., object]] = {}
    if program is not None:
        judging = open_artifact(config, console)
    else:
        judging = run = open_run(config, None, console)
        prepared = load_prepared(run)
        program = convert(prepared)
        models["fake_quant"] = prepared.eval()
    models |= {engine: lower(program, engine) for engine in config.engines}
    results = {name: score(judging, model, name) for name, model in models.items()}
    table = Table("engine", "metric", "n", title=f"{judging.data.name}, {given(config)}")
    for name, result in results.items():
        table.add_row(name, f"{result.metric:.3f}", str(result.count))
    console.print(table)
    return {name: result.metric for name, result in results.items()}


def inspect_deployed(config: Config, console: Console | None = None) -> dict[str, Any]:
    """What this CPU's kernels add in 16 bits; coverage, where the time goes, ranges and per-layer SQNR of a QAT `checkpoint`
    (simulation against INT8) or an `artifact` (engine against reference), on a batch of test samples."""
    console = console or Console()
    program = ready_program(config)
    result: dict[str, Any] = {"saturation": saturation()}
    console.print(saturation_table(result["saturation"]))
    if program is not None:
        sample = _sample(open_artifact(config, console))
        rows = engine_parity(program, config.engines[0], sample)
        against = f"{config.engines[0]} against reference"
    else:
        run = open_run(config, None, console)
        prepared = load_prepared(run)
        program = convert(prepared)
        sample = _sample(run)
        rows = simulation_parity(prepared, program, sample)
        against = "simulation against INT8"
        found = coverage(prepared, [x[:1] for x in sample])
        result["coverage"] = asdict(found)
        console.print(f"{found.macs_int8:.1%} of {found.macs / 1e6:.1f} M multiply-accumulates in INT8", highlight=False)
        for op in found.float_ops:
            console.print(f"  float: {op.op} in {op.layer or '(model)'}: {op.reason}", highlight=False)
    console.print(f"made for {program.target}", highlight=False)
    times = latency(program, config.engines[0], sample)
    result["latency"] = [asdict(row) for row in times]
    if times:
        console.print(f"time on {config.engines[0]}, {len(sample[0])} samples: {described(times)}", highlight=False)
    console.print(layer_table(rows, program, against))
    grids = program.grids()
    result["layers"] = [
        {
            **asdict(row),
            "sqnr_db": finite(row.sqnr_db),
            "float_db": finite(row.float_db),
            **(asdict(grids[row.name]) if row.name in grids else {}),
        }
        for row in rows
    ]
    return result


def layer_table(rows: list[LayerParity], program: Int8Program, against: str) -> Table:
    """One line per tensor on a grid or returned by a layer: range, largest deviation given the same input, SQNR end to end, and
    where the float network is at hand that of INT8 against it."""
    table = Table("layer", "tensor", "range", "max steps", "differ", "SQNR dB", title=against)
    known = any(row.float_db is not None for row in rows)
    if known:
        table.add_column("float dB")
    grids = program.grids()
    for row in rows:
        bounds = _range(grids[row.name]) if row.name in grids else "float"
        decibels = [_decibels(value) for value in ([row.sqnr_db, row.float_db] if known else [row.sqnr_db])]
        table.add_row(row.layer, row.name, bounds, str(row.max_steps), f"{row.differing:.3%}", *decibels)
    return table


def _decibels(value: float | None) -> str:
    return "" if value is None else "equal" if math.isinf(value) else f"{value:.1f}"


def _range(grid: QParams) -> str:
    """What a grid covers; the bracket is escaped for rich."""
    return f"\\[{-grid.zero_point * grid.scale:.3g}, {(255 - grid.zero_point) * grid.scale:.3g}]"


def benchmark_deployed(config: Config, console: Console | None = None) -> dict[str, Any]:
    """Latency of the `artifact` (or of the recipe's model, calibrated on a batch) against FP32 eager, interleaved."""
    console = console or Console()
    program = ready_program(config) if config.artifact is not None else None
    if program is None:
        check_engines(config.engines, config.quantization.target)
    run = open_run(config, None, console)
    network = run.model.module.eval()
    if program is None:
        prepared = prepare_model(run, network)
        calibrate(prepared, [tuple(x[:8] for x in run.data.calibration_batches(1)[0])])
        program = convert(prepared)
    inputs = benchmark_inputs(run)
    before = torch.get_num_threads()
    threads = config.benchmark.threads or before
    models: dict[str, nn.Module] = {"fp32": network, **{engine: lower(program, engine) for engine in config.engines}}
    calls = {name: (lambda model=model: model(*inputs)) for name, model in models.items()}
    torch.set_num_threads(threads)
    try:
        found = measure(calls, repeats=config.benchmark.repeats)
    finally:
        torch.set_num_threads(before)
    table = Table("model", "p50 ms", "p95 ms", "speed-up", title=f"{run.model.name}, {_shape(inputs)}, {threads} threads")
    for name, time in found.items():
        table.add_row(name, f"{time.p50:.2f}", f"{time.p95:.2f}", f"{found['fp32'].p50 / time.p50:.2f}×")
    console.print(table)
    return {name: asdict(time) for name, time in found.items()}


def export_checkpoint(config: Config, console: Console | None = None) -> Path:
    """Convert a QAT `checkpoint` into an artifact folder at `output`."""
    console = console or Console()
    if config.checkpoint is None or config.artifact is not None:
        raise ConfigError("export needs checkpoint=PATH, a .ckpt of the QAT stage, and no artifact")
    check_engines(config.engines, config.quantization.target)
    run = open_run(config, None, console)
    program = convert(load_prepared(run))
    folder = Path(config.output)
    written = write_artifact(run, folder, program, tuple(x[:2] for x in _sample(run)), {}, run.model.module)
    console.print(f"wrote {folder}: {written.bytes} bytes, verified on {', '.join(config.engines)}", highlight=False)
    return folder


def saturation_table(found: Mapping[str, Mapping[str, str]]) -> Table:
    """Which weights each engine's kernels add in 16 bits on this CPU, per kind of layer."""
    kinds = [kind.value for kind in Kind]
    table = Table("engine", *kinds, title=f"products added in 16 bits on this CPU ({isa()})")
    for engine, words in found.items():
        table.add_row(engine, *(words[kind] for kind in kinds))
    return table


def _sample(run: Judging) -> tuple[Tensor, ...]:
    return sample_inputs(run, run.config.gate.parity_samples)


def _shape(inputs: tuple[Tensor, ...]) -> str:
    batch, *rest = inputs[0].shape
    return f"batch {batch}, {' × '.join(map(str, rest))}"
