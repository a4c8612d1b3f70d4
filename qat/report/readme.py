"""The results table of a README, between two markers, from reports."""

from __future__ import annotations

from collections.abc import Sequence

from qat.errors import ConfigError
from qat.report.report import Report

BEGIN, END = "<!-- results: written by qat-report -->", "<!-- end of results -->"


def table(reports: Sequence[Report]) -> str:
    """One row per run, numbers as the runs wrote them; the engine is the fastest one."""
    lines = [
        "| recipe | target | metric | n | FP32 | PTQ | QAT | INT8 | drop [95 % interval] | speed-up | size | engine | CPU |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    machines = list(dict.fromkeys(_machine(report) for report in reports))
    for report in reports:
        stages, (low, high) = report.stages, report.drop.ci95
        engine, best = max(report.engines.items(), key=lambda item: item[1].speedup)
        cells = [
            f"`{report.recipe}` (seed {report.seed})",
            f"`{report.target}`",
            report.metric.name,
            report.n_eval,
            *(f"{stages[name]:.2f}" for name in ("fp32", "ptq", "fake_quant", "int8")),
            f"{report.drop.value:+.2f} [{low:+.2f}, {high:+.2f}]",
            f"{best.speedup:.1f}×",
            f"{report.artifact.ratio:.2f}×",
            engine,
            machines.index(_machine(report)) + 1,
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    cpus = " ".join(f"CPU {i}: {machine}." for i, machine in enumerate(machines, 1))
    return "\n".join([*lines, "", f"Metrics in points; speed-up against FP32 eager at batch 1. {cpus}"])


def _machine(report: Report) -> str:
    env = report.environment
    return f"{env.cpu}, {env.isa}, {env.threads} threads, torch {env.torch}"


def rewritten(readme: str, reports: Sequence[Report]) -> str:
    """A README with the part between the two markers replaced.

    Raises:
        ConfigError: it does not hold both, in this order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"the README has no place for the table: write {BEGIN!r} and {END!r} on lines of their own")
    return f"{before}{BEGIN}\n{table(reports)}\n{END}{after}"
