from __future__ import annotations

from pathlib import Path

from qat.report.plots import PLOTS, draw
from qat.tasks import TASKS
from tests.evaluations import evaluation


def test_pictures_are_of_known_tasks_and_the_others_have_none(tmp_path: Path) -> None:
    assert set(PLOTS) <= set(TASKS)
    assert draw("classification", None, evaluation([1.0]), evaluation([1.0]), tmp_path) == []  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
