from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from qat.report.figures import BLUE, GREY, ORANGE
from qat.sweep.pareto import draw, front, history

OBJECTIVES = ("stages.int8", "artifact.bytes", "engines.fbgemm.latency_ms.p50")

#: Accuracy, more is better, against bytes, less is better: 0, 1 and 4 are beaten by none within budget.
POINTS: Sequence[tuple[float, float]] = (
    (90.0, 100.0),
    (92.0, 150.0),
    (91.0, 160.0),
    (89.0, 120.0),
    (95.0, 400.0),
    (96.0, 90.0),
)
BEST = (0, 1, 4)
OVER = 5


def make_study(values: Sequence[Sequence[float]], directions: Sequence[str], over: Sequence[int] = ()) -> optuna.Study:
    """Finished trials with these values; those in `over` lie above their budget."""
    study = optuna.create_study(directions=[StudyDirection[way.upper()] for way in directions], study_name="made")
    for number, reached in enumerate(values):
        trial = create_trial(state=TrialState.COMPLETE, values=list(reached))
        trial.set_constraint("budget", float(number in over))
        study.add_trial(trial)
    return study


def points(line: Line2D) -> list[tuple[float, float]]:
    """That a line goes through."""
    return [(x, y) for x, y in np.asarray(line.get_xydata()).tolist()]


def lines(figure: Figure, style: str) -> list[Line2D]:
    """Lines of that style; without those of the legend, which go nowhere."""
    (axes,) = figure.axes
    return [line for line in axes.lines if line.get_linestyle() == style and points(line)]


def dots(figure: Figure) -> dict[tuple[float, float], tuple[Any, Any]]:
    """Marker and color of every point that is drawn."""
    found = [(points(line), line) for style in ("-", "None") for line in lines(figure, style)]
    return {place[0]: (line.get_marker(), line.get_color()) for place, line in found if line.get_marker() != "None"}


def joined(figure: Figure, style: str) -> list[list[tuple[float, float]]]:
    """Points of every line of that style that has no markers."""
    return [points(line) for line in lines(figure, style) if line.get_marker() == "None"]


def marks(figure: Figure) -> dict[float, Any]:
    """Trial number -> color of the vertical lines."""
    return {points(line)[0][0]: line.get_color() for line in lines(figure, ":")}


def test_front_has_a_point_for_every_finished_trial_and_says_what_it_is() -> None:
    study = make_study(POINTS, ["maximize", "minimize"], over=[OVER])
    expected = {point: ("x", ORANGE) if n == OVER else ("o", BLUE if n in BEST else GREY) for n, point in enumerate(POINTS)}
    assert dots(front(study, OBJECTIVES[:2])) == expected
    assert {int(text.get_text()) for text in front(study, OBJECTIVES[:2]).axes[0].texts} == set(range(len(POINTS)))


@pytest.mark.parametrize("over", [[], [OVER], [0, 1, OVER], list(range(6))])
def test_front_joins_exactly_the_trials_that_no_other_within_budget_beats(over: list[int]) -> None:
    within = [point for number, point in enumerate(POINTS) if number not in over]
    best = [(x, y) for x, y in within if not any(a >= x and b <= y and (a, b) != (x, y) for a, b in within)]
    study = make_study(POINTS, ["maximize", "minimize"], over=over)
    assert joined(front(study, OBJECTIVES[:2]), "--") == ([sorted(best)] if best else [])


def test_front_leaves_out_what_did_not_finish() -> None:
    study = make_study(POINTS, ["maximize", "minimize"])
    for state in (TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING):
        study.add_trial(create_trial(state=state))
    figure = front(study, OBJECTIVES[:2])
    assert set(dots(figure)) == set(POINTS)
    assert figure.axes[0].get_title() == "made: 6 finished, 1 pruned, 1 failed, 1 open"


@pytest.mark.parametrize("directions", [("maximize", "minimize"), ("minimize", "minimize")])
def test_axes_say_which_way_is_better(directions: tuple[str, ...]) -> None:
    (axes,) = front(make_study(POINTS, directions), OBJECTIVES[:2]).axes
    for label, name, way in zip((axes.get_xlabel(), axes.get_ylabel()), OBJECTIVES, directions, strict=False):
        assert label == f"{name} ({'more' if way == 'maximize' else 'less'} is better)"


@pytest.mark.parametrize(("direction", "better"), [("maximize", max), ("minimize", min)])
def test_history_shows_every_value_and_the_best_so_far(direction: str, better: Any) -> None:
    numbers = [70.0, 72.0, 99.0, 71.0, 1.0, 75.0, 74.0]
    over = [2, 4]
    figure = history(make_study([[number] for number in numbers], [direction], over=over), "stages.int8")
    assert dots(figure) == {(n, value): ("x", ORANGE) if n in over else ("o", BLUE) for n, value in enumerate(numbers)}
    within = [n for n in range(len(numbers)) if n not in over]
    best = [(float(n), better(numbers[m] for m in within if m <= n)) for n in within]
    (line,) = joined(figure, "-")
    assert line == [*best, best[-1]]
    assert direction.removesuffix("imize") in ("max", "min")
    assert ("more" if direction == "maximize" else "less") in figure.axes[0].get_ylabel()


def test_history_marks_failed_and_pruned_trials_where_they_were() -> None:
    study = make_study([[70.0]], ["maximize"])
    for state in (TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE, TrialState.RUNNING):
        value = 71.0 if state is TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, value=value))
    figure = history(study, "stages.int8")
    assert marks(figure) == {1: ORANGE, 2: GREY, 4: GREY}
    assert set(dots(figure)) == {(0, 70.0), (3, 71.0)}
    assert joined(figure, "-") == [[(0, 70.0), (3, 71.0), (4, 71.0)]]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_picture_is_written_for_any_number_of_objectives(count: int, tmp_path: Path) -> None:
    ways = ("maximize", "minimize", "minimize")[:count]
    draw(make_study([(*point, 1.0)[:count] for point in POINTS], ways), OBJECTIVES[:count], tmp_path / "trials.svg")
    text = (tmp_path / "trials.svg").read_text()
    assert re.search(r"<svg\b", text)


@pytest.mark.parametrize("objectives", [OBJECTIVES[:1], OBJECTIVES[:2]])
def test_picture_of_a_search_without_any_result_is_written(objectives: tuple[str, ...], tmp_path: Path) -> None:
    study = make_study([], ["maximize", "minimize"][: len(objectives)])
    study.add_trial(create_trial(state=TrialState.FAIL))
    draw(study, objectives, tmp_path / "trials.svg")
    assert (tmp_path / "trials.svg").exists()
