"""Loggers by name; each optional one sits behind its own import, with an install hint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from qat.errors import ConfigError, QatError, near
from qat.report.report import Report

LOGGERS = ("none", "csv", "tensorboard", "wandb")


def make_loggers(
    name: str,
    *,
    folder: Path,
    run_name: str,
    config: Mapping[str, object],
    about: Sequence[str] = (),
    project: str = "qat",
    tags: Sequence[str] = (),
    group: str | None = None,
) -> list[Logger]:
    """The loggers of a run, beside `metrics.jsonl`; their files stay in `folder`.

    Args:
        about, tags: what W&B shows as tags: of the run itself, and the user's own.

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
            from qat.training.loggers.wandb_run import WandbRun

            return [WandbRun(folder, project=project, run_name=run_name, config=config, tags=[*tags, *about], group=group)]
    except ModuleNotFoundError as error:
        raise ConfigError(f"logger={name} needs a package that is not installed: pip install '{name}'") from error
    return []


def enter(loggers: Iterable[Logger], stage: str) -> None:
    """Tell the loggers that name what they log by stage which one begins."""
    for logger in loggers:
        if hasattr(logger, "stage"):
            logger.stage = stage


@contextmanager
def closed_on_error(loggers: Sequence[Logger]) -> Iterator[None]:
    """Close the loggers of a run that an error ends; one that stays open would take the metrics of a sweep's next run."""
    try:
        yield
    except BaseException as error:
        for logger in loggers:
            logger.finalize("failed")
            if hasattr(logger, "finish"):
                logger.finish(exit_code=error.exit_code if isinstance(error, QatError) else 1)
        raise


def finish(loggers: Iterable[Logger], report: Report) -> None:
    """Give the loggers the report of a finished run, and close them."""
    for logger in loggers:
        if hasattr(logger, "log_report"):
            logger.log_report(report)
        else:
            logger.log_metrics(report.logged())
        logger.finalize("success")
        if hasattr(logger, "finish"):
            logger.finish()
