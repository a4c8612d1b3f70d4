"""A search by Optuna, ask and tell: trials are drawn, run as jobs, and judged by what their reports measured.

Everything is in the storage before a trial starts and after it ends, so a search that was killed goes on: its unfinished trials
first, from their own checkpoints and with their old values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from qat.errors import ConfigError, DivergedError, PreemptedError, QatError, near
from qat.report.compare import compare
from qat.sweep.objective import directions, finite, values
from qat.sweep.outcome import Ended, Outcome, outcome, print_outcomes, sweep_exit_code, write_outcomes
from qat.sweep.pareto import draw
from qat.sweep.space import Dimension, distributions

#: Runs jobs of these overrides, numbered from the second argument; the third is what tells them apart.
Launch = Callable[[Sequence[Sequence[str]], int, Sequence[Sequence[str]]], list[Outcome]]

#: The constraint of a trial: 0 where the drop stays within the accepted one.
BUDGET = "budget"

#: Keys that change nothing about the numbers; a search may go on with others.
FREE = ("progress", "logger", "project", "group", "tags", "resume", "output")

SAMPLERS: dict[str, Callable[..., optuna.samplers.BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "nsga2": optuna.samplers.NSGAIISampler,
    "random": optuna.samplers.RandomSampler,
}

PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=4),
    "none": optuna.pruners.NopPruner,
}


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to search.

    Args:
        study_name: a study of that name in the storage is continued.
        n_trials: that the study shall hold in the end, failed and pruned ones among them.
        n_jobs: trials at once, where the launcher runs jobs side by side.
        objectives: paths into report.json; several give a front of best compromises.
        sampler: `tpe`, `nsga2` or `random`.
        seed: of the sampler.
        pruner: `median` ends trials whose validation metric in QAT is below the median of earlier ones at the same epoch;
            `none`. With several objectives nothing is pruned.
        storage: Optuna's URL of a database, or a file that ends in `.journal` (for folders that several machines share); None
            is `study.db` in the folder of the sweep.

    Reference: Akiba et al. 2019, arXiv:1907.10902 (define-by-run search, median pruning).
    """

    study_name: str
    n_trials: int = 20
    n_jobs: int = 1
    objectives: Sequence[str] = ("stages.int8",)
    sampler: str = "tpe"
    seed: int = 0
    pruner: str = "median"
    storage: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            if getattr(self, name) not in known:
                given = getattr(self, name)
                raise ConfigError(f"unknown {name} {given!r}.{near(given, known)}")
        if self.n_trials < 1 or self.n_jobs < 1:
            raise ConfigError(f"n_trials and n_jobs must be at least 1, got {self.n_trials} and {self.n_jobs}")


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
    waiting = [_again(study, trial, space) for trial in study.get_trials(states=(TrialState.RUNNING,))]
    if study.trials:
        console.print(f"study {study.study_name}: goes on, {len(study.trials)} trials so far, {len(waiting)} unfinished")
    while waiting or len(study.trials) < options.n_trials:
        room = options.n_jobs if waiting else min(options.n_jobs, options.n_trials - len(study.trials))
        batch = [waiting.pop(0)] if waiting else [study.ask(distributions(space)) for _ in range(room)]
        jobs = [[*fixed, *written(trial.params), *_own_overrides(trial, options, storage, folder, fixed)] for trial in batch]
        outcomes = launch(jobs, batch[0].number, [shown(trial.params) for trial in batch])
        for trial, found in zip(batch, outcomes, strict=True):
            tell(study, trial, found, options.objectives)
    every = [told(trial, folder) for trial in study.trials]
    finish(study, options, every, folder, console)
    return exit_code(study, every)


def open_study(
    options: SearchOptions, storage: str, ways: Sequence[str], space: Sequence[Dimension], fixed: Sequence[str]
) -> optuna.Study:
    """The study of this name: a new one, or the one that the storage holds if it searches the same.

    Raises:
        ConfigError: it searches something else, or the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            study_name=options.study_name,
            storage=open_storage(storage),
            pruner=PRUNERS[options.pruner](),
            directions=[StudyDirection[way.upper()] for way in ways],
            load_if_exists=True,
        )
    except Exception as error:  # SQLAlchemy, drivers and the file system raise their own types
        raise ConfigError(f"the storage {storage} cannot hold a study: {type(error).__name__}: {error}") from error
    searched = {
        "objectives": list(options.objectives),
        "space": {dimension.key: dimension.to_json() for dimension in space},
        "fixed": sorted(override for override in fixed if override.partition("=")[0].lstrip("+~") not in FREE),
    }
    searched = json.loads(json.dumps(searched))
    stored = study.user_attrs.get("searched", searched)
    for part, given in searched.items():
        if stored[part] != given:
            raise ConfigError(
                f"study {options.study_name!r} was made with other {part}: {stored[part]}, now {given}. Go on with the same, "
                "or give hydra.sweeper.study_name another name"
            )
    study.set_user_attr("searched", searched)
    study.sampler = _sampler(options, len(study.trials))
    return study


def _again(study: optuna.Study, unfinished: FrozenTrial, space: Sequence[Dimension]) -> optuna.Trial:
    """A trial that was interrupted, with its own values; those that it had no time to draw are drawn now."""
    trial = optuna.Trial(study, unfinished._trial_id)
    for name, distribution in distributions(space).items():
        trial._suggest(name, distribution)
    return trial


def _sampler(options: SearchOptions, trials: int) -> optuna.samplers.BaseSampler:
    """Another seed for every number of trials: a search that goes on must not draw again what it has drawn."""
    return SAMPLERS[options.sampler](seed=options.seed + trials)


def open_trial(storage: str, study: str, number: int, pruner: str) -> optuna.Trial:
    """A trial of a study, in the process that runs it.

    Raises:
        ConfigError: the storage has no such trial.
    """
    try:
        opened = optuna.load_study(study_name=study, storage=open_storage(storage), pruner=PRUNERS[pruner]())
        return optuna.Trial(opened, opened.trials[number]._trial_id)
    except (KeyError, IndexError) as error:
        raise ConfigError(
            f"{storage} has no trial {number} of study {study!r}; keys of trial.* are set by the sweeper"
        ) from error


def open_storage(storage: str) -> BaseStorage:
    """Optuna's storage of a URL, or of a journal file."""
    if storage.endswith(".journal"):
        return JournalStorage(JournalFileBackend(storage))
    return optuna.storages.get_storage(storage)


def tell(study: optuna.Study, trial: optuna.Trial, found: Outcome, objectives: Sequence[str]) -> None:
    """Enter how a trial ended: its values, or that it failed or was pruned; one that was interrupted stays unfinished.

    Raises:
        ConfigError: its report lacks an objective; the trial counts as failed.
    """
    problem: QatError | None = None
    if found.report is not None:
        try:
            reached = values(objectives, found.report)
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
    failed = [gate["name"] for gate in found.report["gates"] if not gate["passed"]]
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
    finished = [found.folder for found in every if found.report is not None]
    if finished:
        compare(finished, output=folder / "comparison.html", console=Console(quiet=True))
    best = study.best_trials
    if not best:
        console.print("[red]no trial finished within the accepted drop[/]")
    for trial in best:
        reached = ", ".join(f"{name} {value:.4g}" for name, value in zip(options.objectives, trial.values, strict=True))
        params = " ".join(written(trial.params))
        console.print(f"[bold]best[/] trial {trial.number}: {reached}   {params}", highlight=False, soft_wrap=True)
    console.print(f"sweep folder: {folder}", highlight=False)


def _own_overrides(trial: optuna.Trial, options: SearchOptions, storage: str, folder: Path, fixed: Sequence[str]) -> list[str]:
    """What only this trial has: its folder, that it goes on where it was, and where it reports for pruning."""
    output = trial_folder(folder, trial.number)
    own = [f"output={_quoted(output)}", f"resume={str(output.exists()).lower()}"]
    if not any(override.startswith("group=") for override in fixed):
        own.append(f"group={_quoted(options.study_name)}")
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


def written(params: Mapping[str, Any]) -> list[str]:
    """Overrides with exactly these values."""
    return [f"{key}={value}" for key, value in params.items()]


def shown(params: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    return [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in params.items()]
