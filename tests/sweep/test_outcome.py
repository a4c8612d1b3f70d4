from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from qat import errors
from qat.errors import ConfigError, DivergedError, GateError, PreemptedError, PrunedError, QatError
from qat.report.report import Report
from qat.sweep.outcome import COLUMNS, Ended, Outcome, cells, outcome, print_outcomes, sweep_exit_code, write_outcomes
from tests.report.reports import make_report

RAISED = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, QatError)]

ENDS = {GateError: Ended.GATE_FAILED, PrunedError: Ended.PRUNED, PreemptedError: Ended.INTERRUPTED}


def _run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(make_report().to_json()))
    return folder


def _outcomes(folder: Path) -> list[Outcome]:
    """One of every kind; the overrides hold what CSV and rich take for their own."""
    folders = [folder / f"{number:03d}" for number in range(5)]
    for number in (0, 1):
        _run(folders[number])
    raised = [None, GateError("drop [0.5, 0.7]"), PrunedError("worse"), PreemptedError("told"), KeyError("a [bold]bug[/bold]")]
    return [
        outcome(number, [f"engines=[fbgemm,x86] 'number {number}'", "qat.lr=1e-4"], folders[number], error)
        for number, error in enumerate(raised)
    ]


def test_job_without_an_error_is_done(tmp_path: Path) -> None:
    found = outcome(3, ["a=1"], _run(tmp_path / "run"), None)
    assert (found.number, found.overrides, found.ended, found.exit_code, found.message) == (3, ("a=1",), Ended.DONE, 0, "")
    assert found.report == Report.from_json(make_report().to_json())


@pytest.mark.parametrize("kind", RAISED)
def test_error_of_a_job_has_the_exit_code_of_the_command_on_its_own(kind: type[QatError], tmp_path: Path) -> None:
    found = outcome(0, [], tmp_path, kind("why"))
    assert found.exit_code == (0 if kind is PrunedError else kind.exit_code), "a pruned trial did what it should"
    assert found.ended is ENDS.get(kind, Ended.FAILED)
    assert found.message == f"{kind.__name__}: why"


@pytest.mark.parametrize("error", [ZeroDivisionError("why"), KeyError("why"), RuntimeError("why"), OSError("why")])
def test_bug_of_a_job_is_a_failure_with_1(error: Exception, tmp_path: Path) -> None:
    found = outcome(0, [], tmp_path, error)
    assert (found.ended, found.exit_code) == (Ended.FAILED, 1)
    assert type(error).__name__ in found.message


def test_codes_are_those_of_the_commands(tmp_path: Path) -> None:
    codes = {DivergedError: 3, GateError: 4, ConfigError: 2, PreemptedError: 143, PrunedError: 0}
    assert {kind: outcome(0, [], tmp_path, kind("")).exit_code for kind in codes} == codes


@pytest.mark.parametrize(
    "error", [None, GateError("x"), PrunedError("x"), PreemptedError("x"), DivergedError("x"), ValueError()]
)
def test_only_jobs_that_came_to_their_gates_have_a_report(error: Exception | None, tmp_path: Path) -> None:
    """Even where an older report lies in the folder."""
    found = outcome(0, [], _run(tmp_path / "run"), error)
    assert (found.report is not None) == (error is None or isinstance(error, GateError))


def test_sweep_ends_with_the_code_of_its_first_bad_job(tmp_path: Path) -> None:
    found = _outcomes(tmp_path)
    assert [job.exit_code for job in found] == [0, 4, 0, 143, 1]
    assert sweep_exit_code(found) == 4
    assert sweep_exit_code(reversed(found)) == 1
    assert sweep_exit_code(found[2:]) == 143
    assert sweep_exit_code([found[0], found[2]]) == 0, "a pruned trial is no failure"
    assert sweep_exit_code([]) == 0


def test_csv_has_every_cell_and_the_folders(tmp_path: Path) -> None:
    found = _outcomes(tmp_path)
    write_outcomes(found, tmp_path / "jobs.csv")
    with (tmp_path / "jobs.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["folder"] for row in rows] == ["000", "001", "002", "003", "004"]
    assert [tuple(row[column] for column in COLUMNS) for row in rows] == [cells(job) for job in found]
    report = make_report().to_json()
    for row, job in zip(rows, found, strict=True):
        assert row["overrides"] == " ".join(job.overrides)
        assert row["ended"].startswith(str(job.ended))
        if job.report is None:
            assert row["FP32"] == row["INT8"] == row["drop"] == row["speed-up"] == ""
        else:
            assert float(row["FP32"]) == pytest.approx(report["stages"]["fp32"], abs=0.005)
            assert float(row["INT8"]) == pytest.approx(report["stages"]["int8"], abs=0.005)
            assert float(row["drop"]) == pytest.approx(report["drop"]["value"], abs=0.005)
            assert float(row["speed-up"].rstrip("×")) == pytest.approx(report["engines"]["fbgemm"]["speedup"], abs=0.005)


def test_table_shows_every_job_and_why_it_failed_brackets_and_all(tmp_path: Path) -> None:
    found = _outcomes(tmp_path)
    console = Console(file=StringIO(), width=200)
    print_outcomes(found, console, title="5 jobs")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for job in found:
        assert " ".join(job.overrides) in text
        assert cells(job)[-1] in text
        assert (f"job {job.number} {job.message}" in text) == bool(job.exit_code)
    assert "drop [0.5, 0.7]" in text
    assert "a [bold]bug[/bold]" in text


def test_table_of_a_narrow_terminal_loses_no_letter_of_the_overrides(tmp_path: Path) -> None:
    found = outcome(0, ["qat.lr=0.000123456789", "engines=[fbgemm,x86]"], tmp_path, ValueError("bug"))
    console = Console(file=StringIO(), width=70)
    print_outcomes([found], console, title="1 job")
    column = "".join(line.split("│")[2].strip() for line in console.file.getvalue().splitlines() if "│" in line)  # type: ignore[attr-defined]
    assert column == "".join(found.overrides)
