from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console

from qat.report.report import Drop
from qat.report.table import print_summary, row, summary_table
from tests.report.reports import make_report

REPORT = make_report()


def _print(width: int = 120) -> str:
    file = StringIO()
    print_summary(REPORT, Console(file=file, width=width))
    return file.getvalue()


def test_row_holds_what_articles_compare() -> None:
    cells = row(REPORT, "fbgemm", REPORT.engines["fbgemm"])
    assert cells == ["tiny", "fbgemm", "98.61", "97.50", "98.33", "98.06", "+0.56", "4.00×", "0.25 MB"]


def test_later_rows_hold_what_differs_between_engines() -> None:
    cells = row(REPORT, "x86", REPORT.engines["x86"], first=False)
    assert [cell for cell in cells if cell] == ["x86", "98.00", "2.00×"]


def test_table_has_one_row_per_run_and_engine() -> None:
    other = replace(REPORT, model="small")
    assert summary_table([REPORT, other]).row_count == 4
    assert len(summary_table([REPORT, other]).columns) == len(row(REPORT, "x86", REPORT.engines["x86"]))


def test_one_model_alone_is_the_title_of_the_table() -> None:
    table = summary_table([REPORT])
    assert table.title == "tiny: FP32 against INT8"
    assert [column.header for column in table.columns][:2] == ["engine", "FP32"]


def test_summary_says_interval_gates_coverage_and_conditions() -> None:
    text = " ".join(_print().split())
    for part in (
        "n = 360, seed 3, target x86",
        "drop +0.56 points, 95 % interval [-0.10, +1.20]",
        "8.00 → 2.00 ms",
        f"{REPORT.environment.threads} threads",
        "98.0% of multiply-accumulates in INT8, 1 float ops",
        "artifact 0.250 of the FP32 weights",
        "top5: FP32 99.50, PTQ 99.50, QAT 99.50, INT8 99.50, drop +0.12",
        "INT8 decides as FP32 does in 98.00% of the cases",
        "gate kernel/fbgemm: passed",
        "gate accuracy: FAILED drop +0.556 points, budget 0.5",
    ):
        assert part in text, part


def test_summary_of_many_metrics_shows_some_and_says_where_the_others_are() -> None:
    names = [f"ap/{i}" for i in range(20)]
    metrics = {stage: {"top1": 98.0, **dict.fromkeys(names, 50.0)} for stage in ("fp32", "ptq", "fake_quant", "int8")}
    drops = {name: Drop(value=0.0, ci95=(0.0, 0.0)) for name in names}
    file = StringIO()
    print_summary(replace(REPORT, metrics=metrics, drops=drops), Console(file=file, width=120))
    assert file.getvalue().count("ap/") == 8
    assert "12 more metrics stand in report.json" in file.getvalue()


def test_summary_fits_80_columns() -> None:
    assert max(len(line) for line in _print(80).splitlines()) <= 80
    assert "98.61" in _print(80)
