"""Loggers by name; each optional one sits behind its own import, with an install hint."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from qat.errors import ConfigError, near

LOGGERS = ("none", "csv", "tensorboard", "wandb")


def make_loggers(name: str, *, folder: Path, project: str, run_name: str, config: Mapping[str, Any]) -> list[Logger]:
    """The loggers of a run, beside `metrics.jsonl`.

    W&B runs offline unless WANDB_API_KEY or WANDB_MODE=online is set; its files stay in `folder`.

    Raises:
        ConfigError: unknown name, or its package is not installed.
    """
    if name not in LOGGERS:
        raise ConfigError(f"unknown logger {name!r}.{near(name, LOGGERS)}")
    try:
        if name == "csv":
            return [CSVLogger(folder, name="csv")]
        if name == "tensorboard":
            return [TensorBoardLogger(folder, name="tensorboard")]
        if name == "wandb":
            return [_wandb(folder, project, run_name, config)]
    except ModuleNotFoundError as error:
        raise ConfigError(f"logger={name} needs a package that is not installed: pip install '{name}'") from error
    return []


def finish(loggers: Iterable[Logger]) -> None:
    """Close the loggers; a W&B run that stays open would take the metrics of the next run of a sweep."""
    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _wandb(folder: Path, project: str, run_name: str, config: Mapping[str, Any]) -> Logger:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ["WANDB_DATA_DIR"] = str(folder)  # not setdefault: a sweep has several runs in one process
    offline = "WANDB_API_KEY" not in os.environ and os.environ.get("WANDB_MODE", "offline") in ("offline", "dryrun")
    return WandbLogger(project=project, name=run_name, save_dir=str(folder), offline=offline, config=dict(config))
