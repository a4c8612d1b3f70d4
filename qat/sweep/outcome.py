"""How the jobs of a sweep ended."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qat.errors import GateError, PreemptedError, PrunedError, QatError
from qat.files import write_text
from qat.report.compare import compare, read
from qat.report.report import REPORT, Report


class Ended(StrEnum):
    """How a job ended."""

    DONE = "done"
    GATE_FAILED = "gate failed"
    PRUNED = "pruned"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


#: A gate fails after the report is written; these are the only jobs that have one.
REPORTED = (Ended.DONE, Ended.GATE_FAILED)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One job.

    Args:
        number: of the job in its sweep.
        overrides: what tells it from its siblings.
        folder: its run folder.
        ended: how.
        exit_code: of the same command on its own; 1 for a bug, 0 for a trial that was pruned.
        message: why it did not go well, for people.
    """

    number: int
    overrides: tuple[str, ...]
    folder: Path
    ended: Ended
    exit_code: int = 0
    message: str = ""

    @cached_property
    def report(self) -> Report | None:
        """Content of its report.json; None when it did not get so far, or its folder is gone."""
        return read(self.folder) if self.ended in REPORTED and (self.folder / REPORT).is_file() else None


def outcome(number: int, overrides: Iterable[str], folder: Path, error: Exception | None) -> Outcome:
    """The outcome of a job that ended with this error, or with none."""
    good = Outcome(number=number, overrides=tuple(overrides), folder=folder, ended=Ended.DONE)
    if error is None:
        return good
    ended = next((how for kind, how in _ENDS.items() if isinstance(error, kind)), Ended.FAILED)
    code = error.exit_code if isinstance(error, QatError) else 1
    code = 0 if ended is Ended.PRUNED else code
    return replace(good, ended=ended, exit_code=code, message=f"{type(error).__name__}: {error}")


_ENDS: dict[type[Exception], Ended] = {
    GateError: Ended.GATE_FAILED,
    PrunedError: Ended.PRUNED,
    PreemptedError: Ended.INTERRUPTED,
}


def sweep_exit_code(outcomes: Iterable[Outcome]) -> int:
    """0 when every job went well, else the code of the first that did not."""
    return next((found.exit_code for found in outcomes if found.exit_code), 0)


COLUMNS = ("job", "overrides", "FP32", "INT8", "drop", "speed-up", "ended")


def cells(found: Outcome) -> tuple[str, ...]:
    """What the table says of one job."""
    numbers = ("", "", "", "")
    if found.report is not None:
        stages, engine = found.report.stages, next(iter(found.report.engines.values()))
        numbers = (
            f"{stages['fp32']:.2f}",
            f"{stages['int8']:.2f}",
            f"{found.report.drop.value:+.2f}",
            f"{engine.speedup:.2f}×",
        )
    ended = f"{found.ended} ({found.exit_code})" if found.exit_code else str(found.ended)
    return (str(found.number), " ".join(found.overrides), *numbers, ended)


def print_outcomes(outcomes: Sequence[Outcome], console: Console, *, title: str) -> None:
    """The table of a sweep, and what went wrong in its jobs."""
    table = Table(title=title, title_style="bold", header_style="bold")
    for column in COLUMNS:
        numeric = column in COLUMNS[2:6]
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for found in outcomes:
        table.add_row(*(escape(cell) for cell in cells(found)))
    console.print(table)
    for found in outcomes:
        if found.exit_code:
            console.print(f"[red]job {found.number}[/] {escape(found.message)}", highlight=False, soft_wrap=True)


def write_comparison(outcomes: Sequence[Outcome], path: Path) -> None:
    """The page that compares the jobs that have a report; none when there is no such job."""
    finished = [found for found in outcomes if found.report is not None]
    if finished:
        names = [f"{found.number}: {' '.join(found.overrides)}" for found in finished]
        compare([found.folder for found in finished], names=names, output=path, console=Console(quiet=True))


def write_outcomes(outcomes: Sequence[Outcome], path: Path) -> None:
    """The same table as CSV, with the run folders."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([*COLUMNS, "folder"])
    writer.writerows([*cells(found), found.folder.name] for found in outcomes)
    write_text(path, buffer.getvalue())
