"""Many runs side by side: a page, a table for the terminal, and the results table of a README."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from qat.errors import ConfigError
from qat.report.html import page
from qat.report.readme import rewritten
from qat.report.report import write_text
from qat.report.table import summary_table

REPORT = "report.json"


def compare(runs: Sequence[Path], *, output: Path, readme: Path | None = None, console: Console | None = None) -> Path:
    """Compare finished runs.

    Args:
        runs: run folders, or report.json files.
        output: the page that is written.
        readme: a file with the two markers of `qat.report.readme`, whose table is renewed.

    Raises:
        ConfigError: no run, one without a report, or a README without the markers.
    """
    reports = [read(run) for run in runs]
    if not reports:
        raise ConfigError("name at least one run folder: qat-report RUN [RUN ...]")
    if readme is not None:
        write_text(readme, rewritten(readme.read_text(), reports))
    write_text(output, page("compare.html.j2", {"drops": drops(reports)}, reports=reports))
    (console or Console()).print(summary_table(reports))
    return output


def read(run: Path) -> dict[str, Any]:
    """The report of a run; `ConfigError` when there is none."""
    path = run / REPORT if run.is_dir() else run
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        if not {"stages", "drop", "engines"} <= report.keys():
            raise ValueError("it lacks stages, drop or engines")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{run} is no finished run: {path} cannot be read as a report: {error}") from error
    return report


def drops(reports: Sequence[Mapping[str, Any]]) -> Figure:
    """What every run lost, with its 95 % interval; right of the line is worse than FP32."""
    figure = Figure(figsize=(8, 0.45 * len(reports) + 1.1), layout="constrained")
    axes = figure.subplots()
    for place, report in enumerate(reports):
        value, (low, high) = report["drop"]["value"], report["drop"]["ci95"]
        axes.errorbar(value, place, xerr=[[value - low], [high - value]], fmt="o", color="#0b6e99", capsize=4)
    axes.axvline(0.0, color="#868e96", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(reports)), [report["recipe"] for report in reports])
    axes.invert_yaxis()
    axes.set(xlabel="drop from FP32 in points of each run's metric")
    axes.grid(axis="x", alpha=0.3)
    return figure
