"""A search by Optuna, ask and tell: trials are drawn, run as jobs, and judged by what their reports measured.

Everything is in the storage before a trial starts and after it ends, so a search that was killed goes on: its unfinished trials
first, from their own checkpoints and with their old values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from qat.errors import ConfigError, DivergedError, PreemptedError, QatError
from qat.sweep.objective import directions, finite, values
from qat.sweep.outcome import Ended, Outcome, outcome, print_outcomes, sweep_exit_code, write_comparison, write_outcomes
from qat.sweep.pareto import draw
from qat.sweep.space import Dimension, distributions
from qat.sweep.study import SearchOptions, again, open_study

#: Runs jobs of these overrides, numbered from the second argument; the third is what tells them apart.
Launch = Callable[[Sequence[Sequence[str]], int, Sequence[Sequence[str]]], list[Outcome]]

#: The constraint of a trial: 0 where the drop stays within the accepted one.
BUDGET = "budget"


def search(
    options: SearchOptions,
    *,
    space: Sequence[Dimension],
    fixed: Sequence[str],
    folder: Path,
    engines: Sequence[str],
    launch: Launch,
    console: Console | None = None,
) -> int:
    """Run trials until the study holds `n_trials`, then write `trials.csv`, `trials.svg` and `comparison.html`.

    Args:
        space: what is tried.
        fixed: overrides that all trials share.
        folder: of the sweep; trial 7 runs in `007`.
        engines: on which the runs are evaluated.
        launch: runs the jobs.

    Returns:
        The exit code: 0, or that of the first trial that ended badly.

    Raises:
        ConfigError: options, space or objectives that cannot be, or a study that was made with others.
    """
    console = console or Console()
    ways = directions(options.objectives, engines)
    if not space:
        raise ConfigError("nothing to search; give at least one key values, for example 'qat.lr=tag(log,interval(1e-6,1e-3))'")
    storage = options.storage or f"sqlite:///{(folder / 'study.db').resolve()}"
    study = open_study(options, storage, ways, space, fixed)
    waiting = [again(study, trial, space) for trial in study.get_trials(states=(TrialState.RUNNING,))]
    if study.trials:
        console.print(f"study {study.study_name}: goes on, {len(study.trials)} trials so far, {len(waiting)} unfinished")
    while waiting or len(study.trials) < options.n_trials:
        missing = options.n_trials - len(study.trials)
        fresh = 0 if waiting else min(options.n_jobs, missing)  # a launcher numbers its jobs one after the other
        batch = [study.ask(distributions(space)) for _ in range(fresh)] or [waiting.pop(0)]
        jobs = [[*fixed, *written(trial.params), *_own_overrides(trial, options, storage, folder)] for trial in batch]
        outcomes = launch(jobs, batch[0].number, [shown(trial.params) for trial in batch])
        for trial, found in zip(batch, outcomes, strict=True):
            tell(study, trial, found, options.objectives)
    every = [told(trial, folder) for trial in study.trials]
    finish(study, options, every, folder, console)
    return exit_code(study, every)


def tell(study: optuna.Study, trial: optuna.Trial, found: Outcome, objectives: Sequence[str]) -> None:
    """Enter how a trial ended: its values, or that it failed or was pruned; one that was interrupted stays unfinished.

    Raises:
        ConfigError: its report lacks an objective; the trial counts as failed.
    """
    problem: QatError | None = None
    if found.report is not None:
        try:
            reached = values(objectives, asdict(found.report))
            if not finite(reached):
                problem = DivergedError(f"{', '.join(objectives)} came out as {reached}, nothing to learn from")
        except ConfigError as error:
            problem = error
    if problem is not None:
        found = outcome(found.number, found.overrides, found.folder, problem)
    for name, value in {"ended": found.ended.value, "exit_code": found.exit_code, "message": found.message}.items():
        trial.set_user_attr(name, value)
    if found.ended is Ended.INTERRUPTED:
        return
    if found.report is None:
        study.tell(trial, state=TrialState.PRUNED if found.ended is Ended.PRUNED else TrialState.FAIL)
        if isinstance(problem, ConfigError):
            raise problem
        return
    failed = found.report.failed
    if any(name != "accuracy" for name in failed):  # an INT8 model that is not what was trained
        study.tell(trial, state=TrialState.FAIL)
        return
    trial.set_constraint(BUDGET, 1.0 if failed else 0.0)
    study.tell(trial, reached)


def exit_code(study: optuna.Study, every: Sequence[Outcome]) -> int:
    """As of any sweep; but a drop above budget is a result of a search, unless no trial stays within."""
    results = {trial.number for trial in study.get_trials(states=(TrialState.COMPLETE,))} if study.best_trials else set()
    return sweep_exit_code(found for found in every if found.number not in results)


def finish(study: optuna.Study, options: SearchOptions, every: Sequence[Outcome], folder: Path, console: Console) -> None:
    """The table of all trials, the plot, the page, and the best."""
    print_outcomes(every, console, title=f"study {study.study_name}: {len(every)} trials")
    write_outcomes(every, folder / "trials.csv")
    draw(study, options.objectives, folder / "trials.svg")
    write_comparison(every, folder / "comparison.html")
    best = study.best_trials
    if not best:
        console.print("[red]no trial finished within the accepted drop[/]")
    for trial in best:
        reached = ", ".join(f"{name} {value:.4g}" for name, value in zip(options.objectives, trial.values, strict=True))
        params = " ".join(written(trial.params))
        console.print(f"[bold]best[/] trial {trial.number}: {reached}   {params}", highlight=False, soft_wrap=True)
    console.print(f"sweep folder: {folder}", highlight=False)


def _own_overrides(trial: optuna.Trial, options: SearchOptions, storage: str, folder: Path) -> list[str]:
    """What only this trial has: its folder, that it goes on where it was, and where it reports for pruning."""
    output = trial_folder(folder, trial.number)
    own = [f"output={_quoted(output)}", f"resume={str(output.exists()).lower()}"]
    if options.pruner != "none" and len(options.objectives) == 1:
        own += [f"trial.storage={_quoted(storage)}", f"trial.study={_quoted(options.study_name)}"]
        own += [f"trial.number={trial.number}", f"trial.pruner={options.pruner}"]
    return own


def _quoted(value: object) -> str:
    """Text as an override writes it when it may hold spaces, commas or brackets."""
    escaped = str(value).replace("'", "\\'")
    return f"'{escaped}'"


def trial_folder(folder: Path, number: int) -> Path:
    """The run folder of a trial."""
    return folder / f"{number:03d}"


def told(trial: FrozenTrial, folder: Path) -> Outcome:
    """How a trial ended, in this session or in an earlier one, as it was told; one that never was is unfinished."""
    unfinished: dict[str, Any] = {"ended": Ended.INTERRUPTED, "exit_code": PreemptedError.exit_code, "message": "unfinished"}
    attributes = unfinished | trial.user_attrs
    return Outcome(
        number=trial.number,
        overrides=tuple(shown(trial.params)),
        folder=trial_folder(folder, trial.number),
        ended=Ended(attributes["ended"]),
        exit_code=attributes["exit_code"],
        message=attributes["message"],
    )


def written(params: Mapping[str, object]) -> list[str]:
    """Overrides with exactly these values."""
    return [f"{key}={value}" for key, value in params.items()]


def shown(params: Mapping[str, object]) -> list[str]:
    """The same for people."""
    return [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()]
