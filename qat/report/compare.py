"""Many runs side by side: a page, a table for the terminal, and the results table of a README."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from qat.errors import ConfigError
from qat.files import write_text
from qat.report.html import page
from qat.report.readme import rewritten
from qat.report.report import REPORT, Report
from qat.report.table import summary_table


def compare(
    runs: Sequence[Path],
    *,
    output: Path,
    names: Sequence[str] | None = None,
    readme: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Compare finished runs.

    Args:
        runs: run folders, or report.json files.
        names: what to call them; None takes their recipes, with their folders where a recipe has several runs.
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
    named = list(zip(names or names_of(runs, reports), reports, strict=True))
    write_text(output, page("compare.html.j2", {"drops": drops(named)}, runs=named))
    (console or Console()).print(summary_table(reports))
    return output


def read(run: Path) -> Report:
    """The report of a run; `ConfigError` when there is none."""
    path = run / REPORT if run.is_dir() else run
    try:
        return Report.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, ConfigError) as error:
        raise ConfigError(f"{run} is no finished run: {path} cannot be read as a report: {error}") from error


def names_of(runs: Sequence[Path], reports: Sequence[Report]) -> list[str]:
    """The recipe of every run, with its folder (or file) where that does not tell it from the others."""
    recipes = [report.recipe for report in reports]
    folders = [run.resolve().parent.name if run.name == REPORT else run.resolve().name for run in runs]
    return [f"{name}, {folders[i]}" if recipes.count(name) > 1 else name for i, name in enumerate(recipes)]


def drops(runs: Sequence[tuple[str, Report]]) -> Figure:
    """What every run lost, with its 95 % interval; right of the line is worse than FP32."""
    figure = Figure(figsize=(8, 0.45 * len(runs) + 1.1), layout="constrained")
    axes = figure.subplots()
    for place, (_, report) in enumerate(runs):
        value, (low, high) = report.drop.value, report.drop.ci95
        axes.errorbar(value, place, xerr=[[value - low], [high - value]], fmt="o", color="#0b6e99", capsize=4)
    axes.axvline(0.0, color="#868e96", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(runs)), [name for name, _ in runs])
    axes.invert_yaxis()
    axes.set(xlabel="drop from FP32 in points of each run's metric")
    axes.grid(axis="x", alpha=0.3)
    return figure
