"""Which pictures a finished run has."""

from __future__ import annotations

from pathlib import Path

from qat.report.disagreements import STRIP
from qat.report.plots import PLOTS, draw
from qat.tasks import TASKS
from tests.evaluations import evaluation


def test_pictures_are_of_known_tasks_and_the_others_have_none(tmp_path: Path) -> None:
    assert set(PLOTS) <= set(TASKS)
    assert draw("question_answering", None, evaluation([1.0]), evaluation([1.0]), tmp_path) == []  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_runs_of_classifiers_draw_what_is_taken_for_what(finished: Path, finished_text: Path) -> None:
    for folder in (finished, finished_text):
        assert {path.name for path in (folder / "plots").iterdir()} - {STRIP} == {"confusion.svg"}
        page = (folder / "report.html").read_text()
        assert "<h2>Confusion</h2>" in page
