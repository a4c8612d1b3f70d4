from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytorch_lightning.loggers import CSVLogger, Logger

from qat.callbacks import loggers
from qat.callbacks.loggers import make_loggers
from qat.errors import ConfigError


@pytest.fixture(autouse=True)
def environment_as_it_was() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def _make(name: str, folder: Path) -> list[Logger]:
    return make_loggers(name, folder=folder, project="p", run_name="r", config={})


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


def test_wandb_is_offline_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    (logger,) = _make("wandb", tmp_path)
    assert vars(logger)["_offline"] is True


def test_wandb_of_a_second_run_keeps_its_files_in_the_second_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_DATA_DIR", raising=False)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        _make("wandb", tmp_path / name)
    assert os.environ["WANDB_DATA_DIR"] == str(tmp_path / "second")
