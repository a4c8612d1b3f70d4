"""What the commands for trained runs work on: an artifact's program, or the prepared model of a QAT checkpoint."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from qat.config import Config
from qat.deploy.artifact import TOKENIZER
from qat.deploy.preprocess import preprocess_of
from qat.errors import ConfigError, DataError, EngineError, SchemeError
from qat.pipeline.run import Judging, Run, open_data, open_source, prepare_model
from qat.quantization.analysis.weight_error import target_costs
from qat.quantization.engines import check_engines, get_engine
from qat.quantization.prepared import PreparedModel, target_of
from qat.quantization.program.program import Int8Program
from qat.quantization.program.storage import load_program, read_manifest
from qat.quantization.targets import TARGETS, get_target
from qat.tasks import build_task, task_reading
from qat.training.callbacks.checkpoint import load_weights


def ready_program(config: Config) -> Int8Program | None:
    """The program of `artifact`, once it is known that every engine runs it here; None for a `checkpoint`, whose target the
    engines must be able to run. It takes a second: data and model are built afterwards.

    Raises:
        EngineError: an engine cannot.
    """
    if given(config) == "checkpoint":
        check_engines(config.engines, config.quantization.target)
        return None
    program = load_program(str(config.artifact))
    for engine in config.engines:
        if refusal := get_engine(engine).refusal(program):
            raise EngineError(f"engine {engine!r} cannot run {config.artifact}: {refusal}")
    return program


def open_artifact(config: Config, console: Console) -> Judging:
    """What judging an `artifact` takes: the configured data, prepared as the artifact's manifest says. No float model is built;
    what the configuration says of one does not matter.

    Raises:
        DataError: the data has other labels than the artifact.
    """
    folder = Path(str(config.artifact))
    manifest, source = read_manifest(folder), open_source(config)
    if list(manifest.get("labels", [])) != list(source.labels):
        raise DataError(
            f"the artifact has labels {manifest.get('labels')}, {source.name} has {list(source.labels)}; "
            "evaluate it on the data it was made for"
        )
    tokenizer = None
    if (folder / TOKENIZER).is_dir():
        from qat.models.tokenizer import load_tokenizer  # transformers takes seconds to import

        tokenizer = load_tokenizer(folder / TOKENIZER)
    decoding = {"postprocessing": manifest["postprocessing"]} if "postprocessing" in manifest else {}
    return Judging(
        config=config,
        folder=None,
        console=console,
        data=open_data(config, source, preprocess_of(manifest["preprocessing"]), tokenizer),
        task=build_task(
            task_reading(source.kind, config.task.name), labels=source.labels, metric=config.task.metric, **decoding
        ),
    )


def load_prepared(run: Run) -> PreparedModel:
    """The prepared model of a QAT checkpoint. Its scheme must be the configured one, but for a target with the same kernels:
    then weights that it bounds otherwise get other scales, and what that costs is said."""
    path, weights = _weights(run.config)
    prepared = prepare_model(run, run.model.module)
    trained_for = target_of(weights)
    if trained_for in TARGETS and TARGETS[trained_for].kernels is not get_target(prepared.target).kernels:
        raise SchemeError(
            f"checkpoint {path} was trained for {trained_for}, and {prepared.target} has other kernels, which need a training "
            f"of their own: give quantization={trained_for}, or train for {prepared.target} with baseline=RUN, which takes "
            "over the FP32 weights"
        )
    try:
        prepared.load_from_target_(weights)
    except RuntimeError as error:
        raise ConfigError(
            f"checkpoint {path} does not fit {run.model.name} as configured; give one of the QAT stage "
            f"(checkpoints/qat) and the model it was trained with. {str(error)[:300]}"
        ) from error
    prepared.to(memory_format=torch.channels_last)  # as it was trained and evaluated: float sums depend on it in the last bit
    prepared.set_observing_(False)
    prepared.set_quantizing_(True)
    if trained_for is not None and trained_for != prepared.target:
        run.console.print(f"[yellow]note[/] {_retargeted(prepared, trained_for)}", highlight=False)
    return prepared


def with_own_target(config: Config) -> Config:
    """The configuration with the target that its checkpoint was trained for; as it is without one."""
    if config.checkpoint is None or not Path(config.checkpoint).is_file():
        return config
    found = target_of(_weights(config)[1])
    return replace(config, quantization=replace(config.quantization, target=found)) if found in TARGETS else config


def _weights(config: Config) -> tuple[Path, dict[str, object]]:
    """The file that `checkpoint` names, and the network's state in it.

    Raises:
        ConfigError: there is none.
    """
    path = Path(str(config.checkpoint))
    if not path.is_file():
        what = "is a folder; give one of the files in it" if path.is_dir() else "does not exist"
        raise ConfigError(f"checkpoint {path} {what}")
    return path, load_weights(path)


def _retargeted(prepared: PreparedModel, trained_for: str) -> str:
    """What it costs to convert for another target than was trained for, in words."""
    costs = target_costs(prepared, get_target(trained_for), get_target(prepared.target))
    if not costs:
        return f"trained for {trained_for}, converted for {prepared.target}: every weight keeps its scale, nothing changes"
    before, after = (statistics.fmean(getattr(cost, side) for cost in costs) for side in ("before", "after"))
    most = max(costs, key=lambda cost: abs(cost.before - cost.after))
    return (
        f"trained for {trained_for}, converted for {prepared.target}: {len(costs)} layers change the scales of their weights. "
        f"Their SQNR goes from {before:.1f} to {after:.1f} dB on average (most in {most.layer!r}: {most.before:.1f} to "
        f"{most.after:.1f}). No training has seen these scales; what they cost in accuracy is for qat-evaluate to say"
    )


def given(config: Config) -> str:
    """Which of the two a command is given, `artifact` or `checkpoint`; `ConfigError` when it is not exactly one."""
    if (config.artifact is None) == (config.checkpoint is None):
        raise ConfigError("give either artifact=FOLDER or checkpoint=FILE")
    return "artifact" if config.artifact is not None else "checkpoint"
