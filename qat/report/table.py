"""The terminal table of a run, in the form in which articles compare FP32 with INT8."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from qat.report.report import EngineResult, Report

#: Further metrics that a terminal shows: a data set of 80 classes has 82.
MOST_METRICS = 8

#: What a prediction is, where it is not all that a model says about a sample.
PREDICTIONS = {"detection": "confident boxes"}

STAGES = {"fp32": "FP32", "ptq": "PTQ", "fake_quant": "QAT", "int8": "INT8"}


def summary_table(reports: Sequence[Report]) -> Table:
    """One row per run and engine: model, FP32, PTQ, QAT, INT8, drop, speed-up, size; one model alone is the title."""
    models = {report.model for report in reports}
    title = f"{models.pop()}: FP32 against INT8" if len(models) == 1 else "FP32 against INT8"
    table = Table(title=title, title_style="bold", header_style="bold")
    if models:
        table.add_column("model", overflow="fold", ratio=1)
    table.add_column("engine", no_wrap=True)
    for column in (*STAGES.values(), "drop", "speed-up", "size"):
        table.add_column(column, justify="right", no_wrap=True)
    for report in reports:
        table.add_section()
        for i, (engine, result) in enumerate(report.engines.items()):
            cells = row(report, engine, result, first=i == 0)
            table.add_row(*(cells if models else cells[1:]))
    return table


def row(report: Report, engine: str, result: EngineResult, *, first: bool = True) -> list[str]:
    """The cells of one engine of one run."""
    stages = report.stages
    return [
        report.model if first else "",
        engine,
        f"{stages['fp32']:.2f}" if first else "",
        f"{stages['ptq']:.2f}" if first else "",
        f"{stages['fake_quant']:.2f}" if first else "",
        f"{result.int8:.2f}",
        f"{report.drop.value:+.2f}" if first else "",
        f"{result.speedup:.2f}×",
        f"{report.artifact.bytes / 1e6:.2f} MB" if first else "",
    ]


def print_summary(report: Report, console: Console) -> None:
    """The table, the gates and what stayed float."""
    console.print(summary_table([report]))
    low, high = report.drop.ci95
    environment = report.environment
    console.print(
        f"{report.metric.name} on {report.data}, n = {report.n_eval}, seed {report.seed}, target "
        f"{report.target}; drop {report.drop.value:+.2f} points, 95 % interval [{low:+.2f}, {high:+.2f}] "
        "(paired bootstrap)",
        highlight=False,
    )
    others = [name for name in report.metrics["int8"] if name != report.metric.name]
    for name in others[:MOST_METRICS]:
        values = [f"{title} {report.metrics[stage][name]:.2f}" for stage, title in STAGES.items()]
        console.print(f"{name}: {', '.join(values)}, drop {report.drops[name].value:+.2f}", highlight=False, markup=False)
    if len(others) > MOST_METRICS:
        console.print(f"{len(others) - MOST_METRICS} more metrics stand in report.json", highlight=False)
    cases = PREDICTIONS.get(report.task, "cases")
    if report.agreement is not None:
        console.print(f"INT8 decides as FP32 does in {report.agreement:.2%} of the {cases}", highlight=False)
    for engine, result in report.engines.items():
        fp32, int8 = result.fp32_latency_ms, result.latency_ms
        console.print(
            f"{engine}: {fp32.p50:.2f} → {int8.p50:.2f} ms (medians, interleaved, "
            f"{environment.threads} threads, {environment.isa})",
            highlight=False,
        )
    console.print(
        f"{report.coverage.macs_int8:.1%} of multiply-accumulates in INT8, {len(report.coverage.float_ops)} "
        f"float ops; artifact {report.artifact.ratio:.3f} of the FP32 weights",
        highlight=False,
    )
    for gate in report.gates:
        mark = "[green]passed[/]" if gate.passed else "[red]FAILED[/]"
        console.print(f"gate {gate.name}: {mark}  {gate.detail}", highlight=False)
