"""A whole run in seconds: a ResNet of four narrow blocks on 128 handwritten digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from qat.cli import main as cli
from qat.config import CHOICES, Config, empty_config

#: Dotted keys of the configuration. Observers move until half of QAT, so that a run has every kind of state.
TINY: dict[str, Any] = {
    "model.name": "resnet18",
    "model.image_size": 32,
    "model.in_channels": 1,
    "model.mean": [0.5],
    "model.std": [0.5],
    "model.options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]},
    "data": "digits",
    "data.batch_size": 16,
    "data.eval_batch_size": 50,
    "data.limit_train": 128,
    "data.limit_val": 16,
    "data.limit_test": 120,
    "data.augment": "shift",
    "fp32.max_epochs": 3,
    "fp32.lr": 0.02,
    "fp32.weight_decay": 0.01,
    "qat.max_epochs": 1,
    "qat.lr": 0.001,
    "quantization.observer": "moving_average",
    "quantization.calibration_batches": 2,
    "quantization.freeze_ranges_at": 0.5,
    "gate.max_drop": None,
    "gate.parity_samples": 4,
    "gate.reference_samples": 64,
    "benchmark.repeats": 2,
    "progress": False,
}


#: The same for text: a BERT of two layers with dropout, and a generated language.
TINY_TEXT: dict[str, Any] = {
    "model": "hf_text",
    "model.name": "bert",
    "model.max_length": 48,
    "model.options": {
        "vocab_size": 128,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 48,
    },
    "data": "grammar",
    "data.train": 128,
    "data.test": 60,
    "data.eval_batch_size": 25,
    "fp32.lr": 0.003,
    "engines": ["fbgemm"],
    "benchmark.sequence_length": 24,
    **{
        key: TINY[key]
        for key in TINY
        if key.partition(".")[0] in ("gate", "qat", "quantization", "progress")
        or key in ("data.batch_size", "fp32.max_epochs", "benchmark.repeats")
    },
}

#: The same for detection: the ResNet under a pyramid and an FCOS head of one convolution, on generated shapes.
TINY_SHAPES: dict[str, Any] = {
    "model": "timm_detector",
    "model.name": "resnet18",
    "model.head": "fcos",
    "model.head_options": {"channels": 16, "convs": 1, "extra_levels": False},
    "model.image_size": 64,
    "model.mean": [0.5, 0.5, 0.5],
    "model.std": [0.25, 0.25, 0.25],
    "model.options": {"layers": [1, 1, 1, 1], "channels": [16, 16, 32, 32]},
    "data": "shapes",
    "data.train": 96,
    "data.test": 30,
    "data.augment": "flip",
    "data.eval_batch_size": 15,
    "fp32.max_epochs": 12,
    "fp32.lr": 0.003,
    "engines": ["fbgemm"],
    **{
        key: TINY[key]
        for key in TINY
        if key.partition(".")[0] in ("gate", "qat", "quantization", "progress")
        or key in ("data.batch_size", "benchmark.repeats")
    },
}


def tiny_config(output: Path, *, base: Mapping[str, Any] = TINY, **changes: Any) -> Config:
    """The run as plain values.

    Args:
        base: `TINY`, `TINY_TEXT` or `TINY_SHAPES`.
        changes: by key, with `__` for the dot: `qat__max_epochs=3`.
    """
    own = {key.replace("__", "."): value for key, value in changes.items()}
    values = {**base, **own}
    choices = {key: values.pop(key) for key in CHOICES if key in values}
    config = replace(empty_config(choices), output=str(output))
    for key in base.keys() - own.keys():  # keys that another choice does not have go with the choice
        group, _, name = key.partition(".")
        if group in own and not hasattr(getattr(config, group), name):
            del values[key]
    for key, value in values.items():
        *parents, name = key.split(".")
        owner: Any = config
        for parent in parents:
            owner = getattr(owner, parent)
        assert hasattr(owner, name), f"{key} is no key of the configuration"
        setattr(owner, name, value)
    return config


def tiny_overrides(output: Path, *, base: Mapping[str, Any] = TINY, **changes: Any) -> list[str]:
    """The same run as arguments of `qat-train`."""
    values = {**base, "output": output, **{key.replace("__", "."): value for key, value in changes.items()}}
    flat: dict[str, Any] = {}
    for key, value in values.items():  # Hydra wants a plus before a key that the schema leaves open
        flat |= {f"++{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    return [f"{key}={_hydra(value)}" for key, value in flat.items()]


def trained(config: Config) -> dict[str, Any]:
    """Train without a word; the content of the report."""
    from qat.pipeline.train import train

    report = train(config, console=quiet())
    assert report is not None
    return report.to_json()


def quiet() -> Console:
    """A console whose text a test may read: `console.file.getvalue()`."""
    return Console(file=StringIO(), width=200)


def call(verb: Callable[[], None], arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command of `qat.cli.main` in this process; returns its exit code."""
    monkeypatch.setattr("sys.argv", [f"qat-{verb.__name__}", *arguments])
    try:
        verb()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def train(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """`qat-train` in this process."""
    return call(cli.train, arguments, monkeypatch)


def _hydra(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_hydra(item) for item in value) + "]"
    return str(value)
