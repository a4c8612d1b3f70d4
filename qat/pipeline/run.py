"""What every command shares: the run, its data and model, evaluation under a progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from torch import Tensor, nn

from qat.config import Config, chosen, to_record
from qat.data import DataModule, DataSource, build_data, build_source
from qat.deploy.preprocess import Preprocess, TextPreprocess
from qat.environment import environment
from qat.evaluation.evaluate import Evaluation, evaluate
from qat.models import FloatModel, build_model
from qat.quantization.graph.capture import Traced
from qat.quantization.prepare import prepare
from qat.quantization.prepared import PreparedModel
from qat.ranks import leads
from qat.tasks import AnyTask, build_task, task_reading
from qat.training.loggers.build import make_loggers
from qat.training.loggers.metrics_log import append

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What judging a model takes, be it float, prepared or deployed."""

    config: Config
    folder: Path | None
    console: Console
    data: DataModule
    task: AnyTask


@dataclass(frozen=True, kw_only=True)
class Run(Judging):
    """What every step of a run needs."""

    model: FloatModel
    loggers: list[Logger]


def open_run(config: Config, folder: Path | None, console: Console, overrides: Sequence[str] = ()) -> Run:
    """Seed everything and build model and data; without a folder nothing is logged to files."""
    pl.seed_everything(config.seed, workers=True, verbose=False)
    source = open_source(config)
    name = task_reading(source.kind, config.task.name)
    model = build_model(chosen("model", config.model), task=name, data=source, **vars(config.model))
    task = build_task(name, labels=source.labels, metric=config.task.metric, **model.task_options)
    data = open_data(config, source, model.preprocessing, model.tokenizer)
    for note in data.notes:
        console.print(f"[yellow]note[/] {escape(note)}", highlight=False)
    loggers = []
    if folder is not None and leads():
        data_used = {"name": data.name, "fingerprint": data.fingerprint, "labels": list(data.labels)}
        loggers = make_loggers(
            chosen("logger", config.logger),
            folder=folder,
            run_name=config.recipe,
            about=[name, model.name],
            config={
                **to_record(config),
                "overrides": list(overrides),
                "data_used": data_used,
                "environment": asdict(environment()),
            },
            **vars(config.logger),
        )
    return Run(config=config, folder=folder, console=console, data=data, model=model, task=task, loggers=loggers)


def open_source(config: Config) -> DataSource:
    """The data that the configuration names; `ConfigError` when its task reads data of another kind."""
    source = build_source(chosen("data", config.data), **config.data.source())
    task_reading(source.kind, config.task.name)
    return source


def open_data(
    config: Config, source: DataSource, preprocessing: Preprocess, tokenizer: PreTrainedTokenizerBase | None = None
) -> DataModule:
    """Batches of `source`, prepared as `preprocessing` says."""
    return build_data(source, preprocessing=preprocessing, tokenizer=tokenizer, seed=config.seed, **config.data.batching())


def prepare_model(run: Run, network: nn.Module, traced: Traced | None = None) -> PreparedModel:
    """Capture and place as the configuration says; `traced` see `prepare`."""
    config = run.config.quantization
    return prepare(
        network,
        run.model.example_inputs,
        target=config.target,
        observer=config.observer,
        keep_float=config.keep_float,
        dynamic_dims=run.model.dynamic_dims,
        dropout=config.dropout,
        traced=traced,
    )


def score(run: Judging, forward: Callable[..., object], stage: str, *, limit: int | None = None) -> Evaluation:
    """Evaluate on the test set under a progress bar and log the metric as `<stage>/<metric>`."""
    total = min(run.data.n_test, limit or run.data.n_test)
    with progress(run, f"evaluate {stage}", total) as advance:
        found = evaluate(forward, run.data.test_dataloader(), run.task, limit=limit, progress=advance)
    if run.folder is not None:
        named = {f"{stage}/{name}": value for name, value in found.metrics.items()}
        append(run.folder / "metrics.jsonl", {"stage": stage, "step": None, **named})
    return found


def sample_inputs(run: Judging, count: int) -> tuple[Tensor, ...]:
    """Model inputs of the first test samples."""
    batch = next(iter(run.data.test_dataloader()))
    return tuple(x[:count] for x in run.task.inputs(batch))


def benchmark_inputs(run: Run) -> tuple[Tensor, ...]:
    """Example inputs at the batch size, and where lengths are free at the length, that are to be timed."""
    config = run.config.benchmark
    how = run.model.preprocessing
    limit = how.max_length if isinstance(how, TextPreprocess) else config.sequence_length
    free = run.model.dynamic_dims or ((0,),) * len(run.model.example_inputs)
    inputs = []
    for x, dims in zip(run.model.example_inputs, free, strict=True):
        row = x[1:2].expand(config.batch_size, *x.shape[1:])
        for dim in dims[1:]:
            length = min(config.sequence_length, limit)
            row = torch.cat([row] * math.ceil(length / row.shape[dim]), dim).narrow(dim, 0, length)
        inputs.append(row.contiguous())
    return tuple(inputs)


@contextmanager
def progress(run: Judging, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar; yields the function that advances it."""
    shown = run.config.progress and run.console.is_terminal  # elsewhere a bar that vanishes leaves an empty line
    with Progress(console=run.console, transient=True, disable=not shown) as bar:
        task = bar.add_task(title, total=total)
        yield lambda n: bar.advance(task, n)
