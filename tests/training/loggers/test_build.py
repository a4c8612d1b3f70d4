from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pytorch_lightning.loggers import CSVLogger, Logger

from qat.errors import ConfigError
from qat.report.report import Report
from qat.training.loggers import build as loggers
from qat.training.loggers.build import enter, finish, make_loggers
from tests.report.reports import make_report


@pytest.fixture(autouse=True)
def environment_as_it_was() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def _make(name: str, folder: Path) -> list[Logger]:
    return make_loggers(name, folder=folder, run_name="r", config={})


def test_no_logger_is_none(tmp_path: Path) -> None:
    assert _make("none", tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_csv_files_stay_in_the_run_folder(tmp_path: Path) -> None:
    (logger,) = _make("csv", tmp_path)
    assert isinstance(logger, CSVLogger)
    logger.log_metrics({"a": 1.0}, step=0)
    logger.save()
    assert [path.name for path in tmp_path.rglob("metrics.csv")] == ["metrics.csv"]


def test_unknown_logger_is_answered_with_near_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown logger 'wandbb'. Did you mean 'wandb'.*none, tensorboard"):
        _make("wandbb", tmp_path)


def test_missing_package_is_named_with_an_install_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> Logger:
        raise ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available.")  # as Lightning does: no name

    monkeypatch.setattr(loggers, "TensorBoardLogger", missing)
    with pytest.raises(ConfigError, match=r"logger=tensorboard needs .*pip install 'tensorboard'"):
        _make("tensorboard", tmp_path)


def test_loggers_are_told_the_stage_and_given_the_report_or_its_numbers(tmp_path: Path) -> None:
    class Staged:
        stage = ""
        seen: ClassVar[list[Any]] = []

        def log_report(self, report: Report) -> None:
            self.seen.append(report)

        def finalize(self, status: str) -> None:
            self.seen.append(status)

    staged: Any = Staged()
    (plain,) = _make("csv", tmp_path)
    enter([plain, staged], "qat")
    report = make_report()
    finish([plain, staged], report)
    assert staged.stage == "qat"
    assert staged.seen == [report, "success"]
    (metrics,) = tmp_path.rglob("metrics.csv")
    assert "int8/drop" in metrics.read_text()
