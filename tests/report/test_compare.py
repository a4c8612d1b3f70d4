"""Many runs side by side, and the command that puts them there."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from qat.cli import main as cli
from qat.errors import ConfigError
from qat.report.compare import compare, drops, names_of, read
from qat.report.readme import BEGIN, END, rewritten, table
from tests.report.reports import make_report
from tests.runs import call

MADE = make_report()
REPORT = MADE.to_json()


def _run(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({**REPORT, **changes}))
    return folder


def test_comparison_has_every_run_and_engine(tmp_path: Path) -> None:
    runs = [_run(tmp_path / "a"), _run(tmp_path / "b", recipe="other", model="small")]
    console = Console(file=StringIO(), width=160)
    page = compare(runs, output=tmp_path / "page.html", console=console).read_text()
    assert page.count("<td>fbgemm</td>") == page.count("<td>x86</td>") == 2
    assert page.count("98.61") == 2
    assert page.count('class="failed">accuracy') == 2
    assert '<b>other</b><br><span class="soft">small on digits (abc), n&nbsp;=&nbsp;360</span>' in page
    assert "small" in console.file.getvalue()  # type: ignore[attr-defined]


def test_runs_of_one_recipe_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [_run(tmp_path / "a"), _run(tmp_path / "b"), _run(tmp_path / "c", recipe="other") / "report.json"]
    assert names_of(runs, [read(run) for run in runs]) == ["test, a", "test, b", "other"]
    page = compare(runs, output=tmp_path / "page.html", names=["<one>", "two", "three"], console=Console(file=StringIO()))
    assert "<b>&lt;one&gt;</b>" in page.read_text()


def test_plot_of_drops_has_a_point_and_an_interval_per_run() -> None:
    (axes,) = drops([("test", MADE), ("other", MADE)]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["test", "other"]
    (segment,) = axes.collections[0].get_segments()  # type: ignore[attr-defined]
    assert tuple(segment[:, 0]) == pytest.approx(MADE.drop.ci95)


def test_readme_table_is_renewed_between_its_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n{BEGIN}\nold\n{END}\nrest\n")
    compare([_run(tmp_path / "a")], output=tmp_path / "page.html", readme=readme, console=Console(file=StringIO()))
    text = readme.read_text()
    assert text == f"# Title\n{BEGIN}\n{table([MADE])}\n{END}\nrest\n"
    assert "| `test` (seed 3) | `x86` | top1 | 360 | 98.61 | 97.50 | 98.33 | 98.06 | +0.56 [-0.10, +1.20] | 4.0× |" in text
    assert " 0.25× | fbgemm | 1 |" in text
    with pytest.raises(ConfigError, match="no place for the table"):
        rewritten("# Title", [MADE])


def test_command_compares_and_refuses_what_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert call(cli.report, [str(_run(tmp_path / "a")), "--output", str(page)], monkeypatch) == 0
    assert page.is_file()
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("[1, 2")
    for run in ("empty", "broken.json", "nowhere"):
        assert call(cli.report, [str(tmp_path / run)], monkeypatch) == 2
        assert f"{run} is no finished run" in " ".join(capsys.readouterr().err.split()).replace("\n", "")
    with pytest.raises(ConfigError, match="at least one run"):
        compare([], output=page)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"cannot be read as a report: .*task: Field required.*and \d+ more"):
        read(tmp_path / "other.json")
