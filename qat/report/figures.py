"""The plots of a report, from nothing but `report.json`: accuracy per stage, layers, latency."""

from __future__ import annotations

from matplotlib.figure import Figure

from qat.report.report import Report
from qat.report.table import STAGES

BLUE, ORANGE, GREY = "#0b6e99", "#d9480f", "#868e96"

#: Tensors that the plots of layers show: the ones with the least SQNR, in the order of the network.
MOST_LAYERS = 60

#: Characters of a layer's name that they show.
LONGEST_NAME = 44


def stages(report: Report) -> Figure:
    """The metric of every stage with its 95 % interval (bootstrap over samples)."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    names = list(STAGES)
    values = [report.stages[name] for name in names]
    low, high = zip(*(report.intervals[name] for name in names), strict=True)
    errors = [[v - lo for v, lo in zip(values, low, strict=True)], [hi - v for v, hi in zip(values, high, strict=True)]]
    axes.errorbar(range(len(names)), values, yerr=errors, fmt="o", color=BLUE, capsize=5, markersize=7)
    for x, value in enumerate(values):
        axes.annotate(f"{value:.2f}", (x, value), textcoords="offset points", xytext=(9, 3))
    axes.axhline(values[0], color=GREY, linestyle=":", linewidth=1)
    axes.set_xticks(range(len(names)), list(STAGES.values()))
    axes.set(ylabel=f"{report.metric.name} ({report.metric.unit})", xlim=(-0.4, len(names) - 0.3))
    axes.grid(axis="y", alpha=0.3)
    return figure


def layers(report: Report) -> Figure:
    """Per tensor: SQNR of the simulation against INT8, end to end, and the range of its grid."""
    rows = report.layers
    worst = sorted(range(len(rows)), key=lambda i: _or(rows[i].sqnr_db, 1e9))[:MOST_LAYERS]
    shown = [rows[i] for i in sorted(worst)]
    figure = Figure(figsize=(9, max(2.5, 0.17 * len(shown) + 1.2)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    places = range(len(shown))
    ceiling = max((row.sqnr_db for row in shown if row.sqnr_db is not None), default=100.0)
    left.barh(
        places,
        [_or(row.sqnr_db, ceiling) for row in shown],
        color=[BLUE if row.sqnr_db is not None else "#a5d8ff" for row in shown],
    )
    left.set(xlabel="SQNR, dB (pale: equal)")
    left.set_yticks(places, [_end(row.layer or row.tensor) for row in shown], fontsize=7)
    left.invert_yaxis()
    right.use_sticky_edges = False  # the longest bar shall not touch the frame
    right.barh(places, [row.high - row.low for row in shown], left=[row.low for row in shown], color=ORANGE)
    right.set_xscale("symlog", linthresh=1.0)
    right.set(xlabel="range of the grid")
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
    return figure


def latency(report: Report) -> Figure:
    """Median and 95th percentile per call of FP32 eager and of every engine."""
    engines = report.engines
    first = next(iter(engines.values()))
    times = {"FP32 eager": first.fp32_latency_ms, **{name: engine.latency_ms for name, engine in engines.items()}}
    figure = Figure(figsize=(6.4, 0.55 * len(times) + 1.0), layout="constrained")
    axes = figure.subplots()
    medians = [time.p50 for time in times.values()]
    tails = [max(0.0, time.p95 - time.p50) for time in times.values()]
    axes.barh(range(len(times)), medians, xerr=[[0.0] * len(times), tails], color=[GREY, *[BLUE] * len(engines)], capsize=3)
    for place, (median, tail) in enumerate(zip(medians, tails, strict=True)):
        axes.annotate(f"  {median:.2f} ms", (median + tail, place), va="center", fontsize=9)
    axes.margins(x=0.15)
    axes.set_yticks(range(len(times)), list(times))
    axes.invert_yaxis()
    axes.set(xlabel="ms per call, median; the whisker ends at the 95th percentile")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _end(name: str) -> str:
    """The end of a dotted name, which tells layers apart."""
    return name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}"
