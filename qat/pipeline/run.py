"""What every command shares: the run, its data and model, evaluation under a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from rich.console import Console
from rich.progress import Progress
from torch import nn

from qat.callbacks.loggers import make_loggers
from qat.callbacks.metrics_log import append
from qat.config import Config, StageConfig
from qat.data import ImageData, build_data, build_source
from qat.data.source import ImageSource
from qat.evaluate import Evaluation, evaluate
from qat.models import FloatModel, build_model
from qat.quantization.prepare import PreparedModel, prepare
from qat.tasks import OptimizerFactory, Task, build_task


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every step of a run needs."""

    config: Config
    folder: Path | None
    console: Console
    source: ImageSource
    data: ImageData
    model: FloatModel
    loggers: list[Logger]


def open_run(config: Config, folder: Path | None, console: Console) -> Run:
    """Seed everything and build model and data; without a folder nothing is logged to files."""
    pl.seed_everything(config.seed, workers=True, verbose=False)
    root = {} if config.data.root is None else {"root": config.data.root}
    source = build_source(config.data.source, **root, **config.data.options)
    model_options = asdict(config.model)
    model = build_model(model_options.pop("source"), num_classes=len(source.labels), **model_options)
    data = open_data(config, source, model.preprocessing)
    for name in data.corrupt:
        console.print(f"[yellow]left out[/] {name}", highlight=False)
    loggers = []
    if folder is not None:
        loggers = make_loggers(
            config.logger, folder=folder, project=config.project, run_name=config.recipe, config=asdict(config)
        )
    return Run(config=config, folder=folder, console=console, source=source, data=data, model=model, loggers=loggers)


def open_data(config: Config, source: ImageSource, preprocessing: Mapping[str, Any]) -> ImageData:
    """Batches of `source`, prepared as `preprocessing` says."""
    options = {key: value for key, value in asdict(config.data).items() if key not in ("source", "root", "options")}
    return build_data(source, preprocessing=preprocessing, seed=config.seed, **options)


def prepare_model(run: Run, network: nn.Module) -> PreparedModel:
    """Capture and place as the configuration says."""
    config = run.config.quantization
    return prepare(
        network,
        run.model.example_inputs,
        backend=config.backend,
        target=config.target,
        observer=config.observer,
        keep_float=config.keep_float,
    )


def score(run: Run, forward: Callable[..., Any], stage: str, *, limit: int | None = None) -> Evaluation:
    """Evaluate on the test set under a progress bar and log the metric as `<stage>/<metric>`."""
    judge = make_task(run, nn.Identity(), run.config.qat)
    total = min(run.data.n_test, limit or run.data.n_test)
    with progress(run, f"evaluate {stage}", total) as advance:
        found = evaluate(forward, run.data.test_dataloader(), judge, limit=limit, progress=advance)
    if run.folder is not None:
        append(run.folder / "metrics.jsonl", {"stage": stage, "step": None, f"{stage}/{judge.metric}": found.metric})
    return found


def make_task(run: Run, network: nn.Module, stage: StageConfig) -> Task:
    """The task that trains `network` as `stage` says."""
    return build_task(
        run.config.task,
        model=network,
        num_classes=run.data.num_classes,
        label_smoothing=stage.label_smoothing,
        optimizer=OptimizerFactory(
            name=stage.optimizer,
            lr=stage.lr,
            weight_decay=stage.weight_decay,
            momentum=stage.momentum,
            warmup=stage.warmup,
            decay=stage.decay,
        ),
    )


@contextmanager
def progress(run: Run, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields the function that advances it."""
    with Progress(console=run.console, transient=True, disable=not run.config.progress) as bar:
        task = bar.add_task(title, total=total)
        yield lambda n: bar.advance(task, n)
