"""What every command shares: the run, its data and model, evaluation under a progress bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from torch import Tensor, nn

from qat.config import Config, DataConfig, ModelConfig
from qat.data import DataModule, DataSource, build_data, build_source
from qat.environment import environment
from qat.errors import ConfigError
from qat.evaluation.evaluate import Evaluation, evaluate
from qat.models import FloatModel, build_model
from qat.quantization.prepare import PreparedModel, prepare
from qat.ranks import leads
from qat.tasks import AnyTask, build_task, check_data
from qat.training.loggers.build import make_loggers
from qat.training.loggers.metrics_log import append


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
    model = build_model(config.model.source, task=config.task, data=source, **model_options(config.model))
    task = build_task(config.task, labels=source.labels, metric=config.metric, **model.task_options)
    data = open_data(config, source, model.preprocessing, model.tokenizer)
    for note in data.notes:
        console.print(f"[yellow]note[/] {escape(note)}", highlight=False)
    loggers = []
    if folder is not None and leads():
        data_used = {"name": data.name, "fingerprint": data.fingerprint, "labels": list(data.labels)}
        loggers = make_loggers(
            config.logger,
            folder=folder,
            project=config.project,
            run_name=config.recipe,
            group=config.group,
            tags=[*config.tags, config.task, model.name],
            config={**asdict(config), "overrides": list(overrides), "data_used": data_used, "environment": environment()},
        )
    return Run(config=config, folder=folder, console=console, data=data, model=model, task=task, loggers=loggers)


def open_source(config: Config) -> DataSource:
    """The data that the configuration names; `ConfigError` when its task reads data of another kind."""
    root = {} if config.data.root is None else {"root": config.data.root}
    source = build_source(config.data.source, **root, **config.data.options)
    check_data(config.task, source.kind)
    return source


#: Keys of `model` that only one library's models have.
_ONLY = {
    "timm": ("in_channels", "crop_pct", "interpolation", "head", "head_options"),
    "huggingface": ("tokenizer", "max_length"),
}


def model_options(config: ModelConfig) -> dict[str, Any]:
    """The keys of `model` that its builder takes.

    Raises:
        ConfigError: a key is set that this library's models do not have.
    """
    options, unset = asdict(config), asdict(ModelConfig())
    for library, keys in _ONLY.items():
        for key in keys if library != config.source else ():
            if options[key] != unset[key]:
                raise ConfigError(f"model.{key} is for models of {library}, not of {config.source}; leave it out")
            del options[key]
    del options["source"]
    return options


def open_data(config: Config, source: DataSource, preprocessing: Mapping[str, Any], tokenizer: Any = None) -> DataModule:
    """Batches of `source`, prepared as `preprocessing` says."""
    defaults = asdict(DataConfig())
    given = {key: value for key, value in asdict(config.data).items() if value != defaults[key]}
    options = {key: value for key, value in given.items() if key not in ("source", "root", "options")}
    return build_data(source, preprocessing=preprocessing, tokenizer=tokenizer, seed=config.seed, **options)


def prepare_model(run: Run, network: nn.Module) -> PreparedModel:
    """Capture and place as the configuration says."""
    config = run.config.quantization
    return prepare(
        network,
        run.model.example_inputs,
        target=config.target,
        observer=config.observer,
        keep_float=config.keep_float,
        dynamic_dims=run.model.dynamic_dims,
    )


def score(run: Judging, forward: Callable[..., Any], stage: str, *, limit: int | None = None) -> Evaluation:
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
    limit = int(run.model.preprocessing.get("max_length", config.sequence_length))
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
