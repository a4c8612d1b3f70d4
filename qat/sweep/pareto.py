"""The picture of a search: the front of best compromises, or with one objective how it got better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from qat.report.figures import BLUE, GREY, ORANGE

MAXIMIZED = optuna.study.StudyDirection.MAXIMIZE


def draw(study: optuna.Study, objectives: Sequence[str], path: Path) -> None:
    """Write the picture; of more than two objectives it shows the first two."""
    (front(study, objectives) if len(objectives) > 1 else history(study, objectives[0])).savefig(path)


def front(study: optuna.Study, objectives: Sequence[str]) -> Figure:
    """Every finished trial by its first two objectives; those that no other beats in all of them are joined."""
    figure, axes = _figure()
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    best = sorted(study.best_trials, key=lambda trial: trial.values[0])
    for trial in complete:
        over = _over_budget(trial)
        among = any(trial.number == other.number for other in best)
        axes.plot(
            *trial.values[:2], marker="x" if over else "o", color=ORANGE if over else BLUE if among else GREY, markersize=8
        )
        axes.annotate(f" {trial.number}", trial.values[:2], fontsize=8, va="bottom")
    if best:
        axes.plot(*zip(*(trial.values[:2] for trial in best), strict=True), color=BLUE, linewidth=1, linestyle="--")
    ways = ["more" if direction is MAXIMIZED else "less" for direction in study.directions]
    labels = [f"{name} ({way} is better)" for name, way in zip(objectives, ways, strict=True)]
    axes.set(xlabel=labels[0], ylabel=labels[1], title=_counts(study))
    _legend(axes, [("o", BLUE, "best compromise"), ("o", GREY, "beaten by another"), ("x", ORANGE, "drop above budget")])
    return figure


def history(study: optuna.Study, objective: str) -> Figure:
    """The objective of every trial in their order, and the best so far."""
    figure, axes = _figure()
    trials = study.get_trials()
    best: list[tuple[int, float]] = []
    better = max if study.direction is MAXIMIZED else min
    for trial in trials:
        if trial.state is TrialState.COMPLETE and trial.value is not None:
            over = _over_budget(trial)
            axes.plot(trial.number, trial.value, marker="x" if over else "o", color=ORANGE if over else BLUE, markersize=7)
            if not over:
                best.append((trial.number, better(trial.value, best[-1][1]) if best else trial.value))
        else:
            axes.axvline(trial.number, color=ORANGE if trial.state is TrialState.FAIL else GREY, linestyle=":", linewidth=1)
    if best:
        numbers, reached = zip(*[*best, (len(trials) - 1, best[-1][1])], strict=True)
        axes.step(numbers, reached, where="post", color=BLUE, linewidth=1)
    way = "more" if study.direction is MAXIMIZED else "less"
    axes.set(xlabel="trial", ylabel=f"{objective} ({way} is better)", title=_counts(study))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, [("o", BLUE, "finished"), ("x", ORANGE, "drop above budget"), (":", ORANGE, "failed"), (":", GREY, "pruned")])
    return figure


def _over_budget(trial: FrozenTrial) -> bool:
    return any(value > 0 for value in trial.constraints.values())


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _legend(axes: Axes, entries: Sequence[tuple[str, str, str]]) -> None:
    for style, color, label in entries:
        axes.plot(
            [], [], linestyle=style if style == ":" else "", marker="" if style == ":" else style, color=color, label=label
        )
    axes.legend(fontsize=8)


def _counts(study: optuna.Study) -> str:
    counts = {state: sum(trial.state is state for trial in study.trials) for state in TrialState}
    words = [
        (TrialState.COMPLETE, "finished"),
        (TrialState.PRUNED, "pruned"),
        (TrialState.FAIL, "failed"),
        (TrialState.RUNNING, "open"),
    ]
    return f"{study.study_name}: " + ", ".join(f"{counts[state]} {word}" for state, word in words if counts[state])
