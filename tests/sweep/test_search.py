"""A search: real Optuna, trials by a formula. What a run would do is in tests/test_sweepers.py."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qat.errors import ConfigError, DivergedError, PrunedError
from qat.sweep.search import BUDGET, written
from qat.sweep.study import SAMPLERS, SearchOptions, open_trial
from qat.training.callbacks.pruning import Pruning
from tests.sweep.searches import SPACE, TWO, Launcher, Search, accuracy, at, report, size


def params_of(seen: Mapping[str, Any]) -> dict[str, Any]:
    return {dimension.key: seen[dimension.key] for dimension in SPACE}


@pytest.mark.parametrize(("n_trials", "n_jobs", "batches"), [(4, 1, [1, 1, 1, 1]), (5, 2, [2, 2, 1]), (2, 8, [2])])
def test_search_runs_exactly_so_many_trials(n_trials: int, n_jobs: int, batches: list[int], run: Search) -> None:
    launch = Launcher()
    assert run(launch, n_trials=n_trials, n_jobs=n_jobs) == 0
    assert launch.batches == batches
    assert run.states == ["COMPLETE"] * n_trials
    assert [seen["output"] for seen in launch.seen] == [str(run.folder / f"{number:03d}") for number in range(n_trials)]
    assert all(seen["recipe"] == "tiny" and seen["+data.options.n"] == 1 and not seen["resume"] for seen in launch.seen)


def test_trials_run_with_the_parameters_that_the_study_holds(run: Search) -> None:
    launch = Launcher()
    assert run(launch) == 0
    for trial, seen in zip(run.study.trials, launch.seen, strict=True):
        assert written(trial.params) == [f"{key}={seen[key]}" for key in trial.params]
        assert {type(value) for value in trial.params.values()} == {float, int, str}
        assert trial.value == accuracy(seen)


@pytest.mark.parametrize("objectives", [TWO[:1], TWO])
def test_search_leaves_a_table_a_picture_and_a_page(objectives: tuple[str, ...], tmp_path: Path) -> None:
    launch, folder = Launcher(), tmp_path
    Search(folder, database=True)(launch, objectives=objectives)
    names = {"000", "001", "002", "003", "study.db", "trials.csv", "trials.svg", "comparison.html"}
    assert {path.name for path in folder.iterdir()} == names
    with (folder / "trials.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["folder"] for row in rows] == ["000", "001", "002", "003"]
    assert [float(row["INT8"]) for row in rows] == pytest.approx([accuracy(seen) for seen in launch.seen], abs=0.005)
    assert (folder / "trials.svg").read_text().startswith("<?xml")
    assert "4 runs" in (folder / "comparison.html").read_text()


def test_best_trial_is_that_of_the_best_report_and_is_printed_with_exact_parameters(run: Search) -> None:
    launch = Launcher()
    run(launch, n_trials=8)
    best = max(range(8), key=lambda number: accuracy(launch.seen[number]))
    assert run.study.best_trial.number == best
    (line,) = [line for line in run.text.splitlines() if line.startswith("best")]
    assert line.startswith(f"best trial {best}: stages.int8")
    assert line.endswith(" ".join(f"{key}={value}" for key, value in params_of(launch.seen[best]).items()))


@pytest.mark.parametrize(
    ("end", "code", "ended"),
    [
        (lambda _: DivergedError("loss is [nan]"), 3, "failed"),
        (lambda _: ConfigError("no such optimizer"), 2, "failed"),
        (lambda _: ZeroDivisionError("bug"), 1, "failed"),
        (lambda params: report(params, int8=math.nan), 3, "failed"),
        (lambda params: report(params, failed=["kernel/fbgemm"]), 4, "gate failed"),
        (lambda params: report(params, failed=["kernel/fbgemm", "accuracy"]), 4, "gate failed"),
    ],
    ids=["diverged", "config", "bug", "nan", "kernel", "kernel_and_accuracy"],
)
def test_trial_that_failed_teaches_nothing_and_the_others_go_on(
    end: Callable[[Mapping[str, Any]], Any], code: int, ended: str, run: Search
) -> None:
    launch = Launcher(at(1, end))
    assert run(launch) == code
    assert run.states == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert run.study.trials[1].user_attrs["ended"] == ended
    rest = Launcher()
    assert run(rest, n_trials=5) == code, "a later session has not forgotten it"
    assert len(rest.seen) == 1
    assert all(trial.number != 1 for trial in run.study.best_trials)


def test_search_of_failures_alone_says_so(tmp_path: Path) -> None:
    run = Search(tmp_path)
    assert run(Launcher(lambda *_: DivergedError("loss")), n_trials=2) == 3
    assert "no trial finished within the accepted drop" in run.text
    assert (run.folder / "trials.svg").exists()
    assert not (run.folder / "comparison.html").exists()


def test_trial_above_its_budget_is_a_result_but_never_the_best(again: Search) -> None:
    """Even if its objective is: the budget stands above it."""
    launch = Launcher(at(2, lambda params: report(params, failed=["accuracy"], int8=99.0)))
    assert again(launch) == 0
    trials = again.study.trials
    assert [trial.constraints[BUDGET] > 0 for trial in trials] == [False, False, True, False]
    assert again.states == ["COMPLETE"] * 4
    best = max((0, 1, 3), key=lambda number: accuracy(launch.seen[number]))
    assert [trial.number for trial in again.study.best_trials] == [best]
    assert f"best trial {best}:" in again.text


def test_search_whose_trials_are_all_above_budget_ends_with_4(run: Search) -> None:
    assert run(Launcher(lambda _, params: report(params, failed=["accuracy"])), n_trials=3) == 4
    assert run.states == ["COMPLETE"] * 3
    assert "within the accepted drop" in run.text
    assert run(Launcher(), n_trials=4) == 0, "one within it is enough"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_searches_of_one_seed_draw_alike_and_of_two_not(sampler: str, tmp_path: Path) -> None:
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        launch = Launcher()
        Search(tmp_path / name)(launch, sampler=sampler, seed=seed)
        drawn.append([params_of(seen) for seen in launch.seen])
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_best_trials_of_two_objectives_are_those_that_no_other_beats(sampler: str, run: Search) -> None:
    launch = Launcher(at(3, lambda _: DivergedError("loss")))
    assert run(launch, n_trials=12, objectives=TWO, sampler=sampler) == 3
    reached = {n: (accuracy(seen), size(seen)) for n, seen in enumerate(launch.seen) if n != 3}
    front = {
        number
        for number, (points, bytes_) in reached.items()
        if not any(p >= points and b <= bytes_ and (p, b) != (points, bytes_) for p, b in reached.values())
    }
    assert {trial.number for trial in run.study.best_trials} == front
    assert {int(number) for number in re.findall(r"best trial (\d+):", run.text)} == front
    assert all(not any(key.startswith("trial.") for key in seen) for seen in launch.seen), "pruning knows one objective"
    assert 1 < len(front) < 11, "otherwise the example shows nothing"


def _validate(curve: Callable[[int], float], seen: Mapping[str, Any]) -> Exception | None:
    """Four epochs of a run: what the callback in it tells the study, and whether it lets the run end."""
    trial = open_trial(seen["trial.storage"], seen["trial.study"], seen["trial.number"], seen["trial.pruner"])
    callback = Pruning(trial, "val/top1")
    for epoch in range(4):
        trainer: Any = SimpleNamespace(current_epoch=epoch, callback_metrics={"val/top1": curve(epoch)})
        try:
            callback.on_validation_end(trainer, None)  # type: ignore[arg-type]
        except PrunedError as error:
            return error
    return None


@pytest.mark.parametrize("objective", ["stages.int8", "drop.value", "artifact.bytes"])
@pytest.mark.parametrize("pruner", ["median", "none"])
def test_trial_that_goes_worse_than_earlier_ones_is_pruned(objective: str, pruner: str, run: Search) -> None:
    """Whichever way the objective goes: of the validation metric more is better."""

    def formula(number: int, params: Mapping[str, Any]) -> Any:
        level = {5: 10.0, 6: 95.0}.get(number, 60.0 + number)
        pruned = None if pruner == "none" else _validate(lambda epoch: level + epoch, params)
        return pruned or report(params)

    launch = Launcher(formula)
    assert run(launch, n_trials=7, objectives=[objective], pruner=pruner) == 0
    assert run.states == ["COMPLETE"] * 5 + ["PRUNED" if pruner == "median" else "COMPLETE", "COMPLETE"]
    if pruner == "none":
        assert not any(key.startswith("trial.") for seen in launch.seen for key in seen)
        return
    sign = 1 if objective == "stages.int8" else -1
    curves = [trial.intermediate_values for trial in run.study.trials]
    assert curves[6] == {epoch: sign * (95.0 + epoch) for epoch in range(4)}
    assert curves[5] == {0: sign * 10.0}, "it ended after its first epoch"
    assert "pruned after epoch 1" in run.study.trials[5].user_attrs["message"]


@pytest.mark.parametrize(("study", "number"), [("study", 4), ("other", 0)])
def test_trial_that_is_not_in_the_storage_is_named(study: str, number: int, run: Search) -> None:
    run(Launcher())
    with pytest.raises(ConfigError, match=rf"no trial {number} of study '{study}'.*set by the sweeper"):
        open_trial(run.storage, study, number, "median")


@pytest.mark.usefixtures("blind")
def test_folder_and_study_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "it's (1), a=b [x]"
    folder.mkdir()
    name = "o'clock, [1] = {a: b}"
    run = Search(folder, database=True, options={"study_name": name})

    def formula(number: int, params: Mapping[str, Any]) -> Any:
        return _validate(lambda epoch: 1.0, params) or report(params)

    launch = Launcher(formula)
    assert run(launch) == 0
    assert [seen["output"] for seen in launch.seen] == [str(folder / f"{number:03d}") for number in range(4)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampler": "tpee"}, r"unknown sampler 'tpee'. Did you mean 'tpe'"),
        ({"pruner": "mean"}, r"unknown pruner 'mean'.*median"),
        ({"n_trials": 0}, r"at least 1, got 0 and 1"),
        ({"n_jobs": 0}, r"at least 1, got 20 and 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SearchOptions(study_name="study", **options)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": []}, r"nothing to search.*qat\.lr="),
        ({"objectives": []}, r"needs an objective"),
        ({"objectives": ["stages.fp32"]}, r"not what is shipped"),
        ({"objectives": ["engines.x86.speedup"]}, r"name one of them"),
        ({"storage": "nosql://nowhere"}, r"storage nosql://nowhere cannot hold a study"),
        ({"storage": "sqlite:////nowhere/at/all.db"}, r"cannot hold a study"),
        ({"storage": "/nowhere/at/all.journal"}, r"cannot hold a study"),
    ],
)
def test_search_that_cannot_be_is_refused_before_any_trial(changes: dict[str, Any], words: str, run: Search) -> None:
    launch = Launcher()
    with pytest.raises(ConfigError, match=words):
        run(launch, **changes)
    assert launch.seen == []
    assert [path.name for path in run.folder.iterdir() if path.name != "study.journal"] == []


def test_report_that_lacks_an_objective_ends_the_search_and_fails_its_trial(run: Search) -> None:
    launch = Launcher()
    with pytest.raises(ConfigError, match=r"no 'metrics\.int8\.f1'; there it has top1, top5"):
        run(launch, objectives=["metrics.int8.f1"])
    assert len(launch.seen) == 1
    assert run.states == ["FAIL"]
    assert run.study.trials[0].user_attrs["exit_code"] == ConfigError.exit_code
