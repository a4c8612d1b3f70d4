"""A study of Optuna: what it searches and how, and the storage that lets it be continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from qat.errors import ConfigError, near
from qat.sweep.space import Dimension, distributions

#: Keys that change nothing about the numbers; a search may go on with others.
FREE = ("progress", "logger", "resume", "output")

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
        "fixed": sorted(
            override for override in fixed if override.lstrip("+~").partition("=")[0].partition(".")[0] not in FREE
        ),
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


def again(study: optuna.Study, unfinished: FrozenTrial, space: Sequence[Dimension]) -> optuna.Trial:
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
