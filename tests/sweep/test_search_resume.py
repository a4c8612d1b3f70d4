"""A search that ended early goes on where it stopped, and only as the same search."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from qat.errors import ConfigError, PreemptedError
from qat.sweep.space import Choice, Interval
from qat.sweep.study import SAMPLERS
from tests.sweep.searches import FIXED, SPACE, TWO, Launcher, Search, accuracy, at


def test_finished_search_starts_no_trial_and_a_larger_one_only_what_is_missing(again: Search) -> None:
    again(Launcher())
    before = again.study.trials
    launch = Launcher()
    assert again(launch) == 0
    assert launch.seen == []
    assert again(launch, n_trials=6) == 0
    assert [Path(seen["output"]).name for seen in launch.seen] == ["004", "005"]
    assert [(trial.params, trial.values) for trial in again.study.trials[:4]] == [(t.params, t.values) for t in before]


@pytest.mark.parametrize("end", [KeyboardInterrupt(), SystemExit(1)], ids=["interrupt", "exit"])
@pytest.mark.parametrize("killed", [0, 2, 3])
def test_search_that_was_killed_goes_on_with_the_unfinished_trial_first(killed: int, end: BaseException, again: Search) -> None:
    first = Launcher(at(killed, lambda _: end))
    with pytest.raises(type(end)):
        again(first)
    assert again.states == [*["COMPLETE"] * killed, "RUNNING"]
    second = Launcher()
    assert again(second) == 0
    assert second.seen[0] == {**first.seen[-1], "resume": True}
    assert [seen["resume"] for seen in second.seen] == [True] + [False] * (3 - killed)
    assert again.states == ["COMPLETE"] * 4
    assert again.study.trials[killed].value == accuracy(first.seen[-1])
    assert len(first.seen) + len(second.seen) == 4 + 1


def test_trial_that_was_killed_before_its_folder_was_made_starts_anew(run: Search) -> None:
    first = Launcher(at(1, lambda _: KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(first)
    (run.folder / "001").rmdir()
    second = Launcher()
    assert run(second) == 0
    assert second.seen[0] == first.seen[-1]
    assert not second.seen[0]["resume"]


def test_all_unfinished_trials_of_a_batch_go_on_in_their_own_folders(run: Search) -> None:
    first = Launcher(at(3, lambda _: KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run(first, n_trials=5, n_jobs=2)
    assert run.states == ["COMPLETE"] * 2 + ["RUNNING"] * 2
    second = Launcher()
    assert run(second, n_trials=5, n_jobs=2) == 0
    assert second.seen[:2] == [{**seen, "resume": True} for seen in first.seen[2:]]
    assert run.states == ["COMPLETE"] * 5


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_interrupted_trial_stays_unfinished_and_ends_the_search_with_143(n_jobs: int, run: Search) -> None:
    first = Launcher(at(1, lambda _: PreemptedError("told to end")))
    assert run(first, n_jobs=n_jobs) == 143
    assert len(first.seen) == 4, "the other trials go on"
    assert run.states == ["COMPLETE", "RUNNING", "COMPLETE", "COMPLETE"]
    assert "interrupted (143)" in (run.folder / "trials.csv").read_text()
    second = Launcher()
    assert run(second, n_jobs=n_jobs) == 0
    assert second.seen[0] == {**first.seen[1], "resume": True}
    assert run.states == ["COMPLETE"] * 4


def test_search_that_is_interrupted_again_has_a_row_for_every_trial(run: Search) -> None:
    """Trials that a killed batch left open have never been told anything."""
    with pytest.raises(KeyboardInterrupt):
        run(Launcher(at(1, lambda _: KeyboardInterrupt())), n_jobs=3)
    assert run(Launcher(at(0, lambda _: PreemptedError("told"))), n_jobs=3) == 143
    rows = list(csv.DictReader((run.folder / "trials.csv").read_text().splitlines()))
    assert [row["ended"] for row in rows] == ["interrupted (143)", "done", "done", "done"]
    assert run(Launcher(), n_jobs=3) == 0
    assert run.states == ["COMPLETE"] * 4


def test_trial_that_was_killed_before_its_values_were_drawn_is_drawn_when_it_is_resumed(run: Search) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Launcher(at(1, lambda _: KeyboardInterrupt())))
    study = run.study
    study.ask()  # no values
    second = Launcher()
    assert run(second) == 0
    assert all("qat.lr" in overrides for overrides in second.seen)
    assert run.states == ["COMPLETE"] * 4


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"space": SPACE[:2]}, "space"),
        ({"space": [Interval(key="qat.lr", low=1e-5, high=1e-1, log=True), *SPACE[1:]]}, "space"),
        ({"space": [*SPACE[:2], Choice(key="quantization.observer", values=("minmax", "moving_average"))]}, "space"),
        ({"fixed": [*FIXED, "seed=1"]}, "fixed"),
        ({"fixed": FIXED[1:]}, "fixed"),
        ({"fixed": ["recipe=other", *FIXED[1:]]}, "fixed"),
        ({"objectives": ["drop.value"]}, "objectives"),
        ({"objectives": TWO}, "objectives"),
    ],
)
def test_study_is_not_continued_with_another_search(changes: dict[str, Any], part: str, run: Search) -> None:
    run(Launcher(), n_trials=2)
    launch = Launcher()
    with pytest.raises(ConfigError, match=rf"made with other {part}: .*hydra\.sweeper\.study_name"):
        run(launch, **changes)
    assert launch.seen == []
    assert len(run.states) == 2
    assert run(launch, **changes, study_name="another") == 0


def test_study_is_continued_with_another_order_and_keys_that_change_no_number(run: Search) -> None:
    free = [
        "progress=false",
        "logger=wandb",
        "++logger.tags=[a]",
        "logger.group=mine",
        "logger.project=p",
        "output=elsewhere",
        "resume=true",
    ]
    run(Launcher(), n_trials=1)
    launch = Launcher()
    assert run(launch, n_trials=2, fixed=[*reversed(FIXED), *free], sampler="random", pruner="none", seed=3, n_jobs=2) == 0
    (seen,) = launch.seen
    assert seen["logger.group"] == "mine"
    assert (seen["output"], seen["resume"]) == (str(run.folder / "001"), False), "the sweeper's own come last"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_search_that_goes_on_draws_what_it_has_not_drawn(sampler: str, run: Search) -> None:
    launch = Launcher()
    for n_trials in (3, 6, 7, 8, 12):
        assert run(launch, n_trials=n_trials, sampler=sampler) == 0
    assert len({seen["qat.lr"] for seen in launch.seen}) == 12
