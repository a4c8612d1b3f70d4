"""Searches without training: a formula stands in for the runs, and writes their reports where the overrides say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from qat.cli.overrides import read
from qat.errors import GateError
from qat.sweep.outcome import Outcome, outcome
from qat.sweep.search import search
from qat.sweep.space import Choice, Dimension, Interval
from qat.sweep.study import SearchOptions, open_storage
from tests.report.reports import make_report
from tests.runs import quiet

SPACE: Sequence[Dimension] = (
    Interval(key="qat.lr", low=1e-6, high=1e-1, log=True),
    Interval(key="qat.max_epochs", low=1, high=6, integer=True),
    Choice(key="quantization.observer", values=("minmax", "histogram")),
)

FIXED = ("recipe=tiny", "+data.options.n=1", "engines=[fbgemm]")

#: Objectives with opposite wishes: the best rate for one is not the best for the other.
TWO = ("stages.int8", "artifact.bytes")


def accuracy(params: Mapping[str, Any]) -> float:
    """Points, best at a rate of 1e-4 and with more epochs."""
    return 80.0 - 2.0 * (math.log10(params["qat.lr"]) + 4.0) ** 2 + float(params["qat.max_epochs"])


def size(params: Mapping[str, Any]) -> int:
    """Bytes, fewest at a rate of 1e-2."""
    return int(1000 * (1.0 + abs(math.log10(params["qat.lr"]) + 2.0)))


def report(params: Mapping[str, Any], *, failed: Sequence[str] = (), int8: float | None = None) -> dict[str, Any]:
    """What a run with these parameters would have measured, and which gates failed."""
    content = make_report().to_json()
    content["stages"]["int8"] = accuracy(params) if int8 is None else int8
    content["artifact"]["bytes"] = size(params)
    content["gates"] = [{"name": name, "passed": name not in failed, "detail": ""} for name in ("kernel/fbgemm", "accuracy")]
    return content


#: Ends a trial: report, or an error. A report with failed gates is followed by the error that a run raises then.
Formula = Callable[[int, Mapping[str, Any]], "Mapping[str, Any] | BaseException"]


def good(number: int, params: Mapping[str, Any]) -> Mapping[str, Any]:
    return report(params)


@dataclass
class Launcher:
    """Stands in for Hydra's: every trial is over at once, by a formula.

    Args:
        formula: what comes of trial number and parameters.
        seen: parameters of every trial that was started, overrides as Hydra reads them.
        batches: how many trials were started at once.
    """

    formula: Formula = good
    seen: list[dict[str, Any]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def __call__(self, jobs: Sequence[Sequence[str]], first: int, shown: Sequence[Sequence[str]]) -> list[Outcome]:
        self.batches.append(len(jobs))
        return [self._run(first + i, job, shown[i]) for i, job in enumerate(jobs)]

    def _run(self, number: int, job: Sequence[str], shown: Sequence[str]) -> Outcome:
        params: dict[str, Any] = {key: override.value() for key, override in read(job).items()}
        self.seen.append(params)
        folder = Path(params["output"])
        assert folder.exists() == params["resume"], "a trial that goes on has a folder, a new one has none"
        folder.mkdir(exist_ok=True)
        found = self.formula(number, params)
        if isinstance(found, BaseException) and not isinstance(found, Exception):
            raise found
        if isinstance(found, Exception):
            return outcome(number, shown, folder, found)
        (folder / "report.json").write_text(json.dumps(found))
        failed = [gate["name"] for gate in found["gates"] if not gate["passed"]]
        return outcome(number, shown, folder, GateError(f"failed: {failed}") if failed else None)


@dataclass
class Search:
    """A search in a folder, over and over.

    Args:
        folder: of the sweep.
        database: keep the study in the usual database, not in a journal, which is quicker to make.
        options: of every session, unless it says otherwise.
        text: what the last session printed.
    """

    folder: Path
    database: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""

    def __call__(
        self,
        launch: Launcher,
        *,
        space: Sequence[Dimension] = SPACE,
        fixed: Sequence[str] = FIXED,
        **options: Any,
    ) -> int:
        """One session; returns its exit code."""
        console = quiet()
        storage = None if self.database else self.storage
        chosen = SearchOptions(**{"study_name": "study", "n_trials": 4, "storage": storage, **self.options, **options})
        try:
            return search(
                chosen, space=space, fixed=fixed, folder=self.folder, engines=["fbgemm"], launch=launch, console=console
            )
        finally:
            self.text = console.file.getvalue()  # type: ignore[attr-defined]

    @property
    def storage(self) -> str:
        """Of the study."""
        return f"sqlite:///{self.folder / 'study.db'}" if self.database else str(self.folder / "study.journal")

    @property
    def study(self) -> optuna.Study:
        """As the storage holds it now."""
        return optuna.load_study(study_name=self.options.get("study_name", "study"), storage=open_storage(self.storage))

    @property
    def states(self) -> list[str]:
        """Of every trial, in order."""
        return [trial.state.name for trial in self.study.trials]


def at(number: int, end: Callable[[Mapping[str, Any]], Any]) -> Formula:
    """One trial ends otherwise than the rest."""
    return lambda n, params: end(params) if n == number else report(params)
