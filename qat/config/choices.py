"""What each group offers from the start, by name. Data sets, callbacks and presets are YAML files in `conf/` beside it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from qat.config import data, models, training
from qat.config.run import Config, QuantizationConfig, TaskConfig
from qat.errors import ConfigError, near

TASKS = ("classification", "detection", "text_classification", "token_classification", "question_answering")

CHOICES: Mapping[str, Mapping[str, Any]] = {
    "task": {name: TaskConfig(name=name) for name in ("auto", *TASKS)},
    "model": {
        "timm": models.TimmConfig(),
        "timm_detector": models.TimmDetectorConfig(),
        "hf_image": models.HFImageConfig(),
        "hf_text": models.HFTextConfig(),
        "hf_detector": models.HFDetectorConfig(),
        "module": models.ModuleConfig(),
    },
    "data": {
        "digits": data.DigitsConfig(),
        "folder": data.FolderConfig(),
        "huggingface": data.HuggingFaceConfig(),
        "coco": data.CocoConfig(),
        "shapes": data.ShapesConfig(),
        "text": data.TextConfig(),
        "text_hub": data.TextHubConfig(),
        "grammar": data.GrammarConfig(),
    },
    "optimizer": {
        "adamw": training.AdamWConfig(),
        "adam": training.AdamConfig(),
        "sgd": training.SGDConfig(),
        "rmsprop": training.RMSpropConfig(),
        "timm": training.TimmOptimizerConfig(),
    },
    "trainer": {
        "cpu": training.TrainerConfig(),
        "gpu": training.TrainerConfig(accelerator="gpu"),
        "auto": training.TrainerConfig(accelerator="auto"),
    },
    "quantization": {target: QuantizationConfig(target=target) for target in ("x86", "x86_vnni", "arm", "any")},
    "logger": {
        "none": training.LoggerConfig(),
        "csv": training.CSVConfig(),
        "tensorboard": training.TensorBoardConfig(),
        "wandb": training.WandbConfig(),
    },
    "launch": {"none": training.LaunchConfig(), "torchrun": training.TorchrunConfig()},
}


def task_for(source: type | None, keys: Mapping[str, object]) -> str | None:
    """The task that reads data of this class and these keys; None where only the data themselves can tell."""
    if source is None:
        return None
    if issubclass(source, data.GrammarConfig):
        kinds = {"sentences": TASKS[2], "tags": TASKS[3], "questions": TASKS[4]}
        return kinds.get(str(keys["kind"]))
    if issubclass(source, data.BoxesConfig):
        return "detection"
    return "classification" if issubclass(source, data.ImagesConfig) else None


def model_for(source: type) -> str:
    """The choice of `model` for data of this class where none is named."""
    if issubclass(source, data.BoxesConfig):
        return "timm_detector"
    return "timm" if issubclass(source, data.ImagesConfig) else "hf_text"


def chosen(group: str, config: object) -> str:
    """The name of a choice of `group` by its dataclass; where several share one, the first that has it."""
    return next(name for name, choice in CHOICES[group].items() if type(choice) is type(config))


def to_record(config: Config) -> dict[str, object]:
    """Plain data from which the configuration can be made again: its values, and which choice each group has."""
    groups = {group: chosen(group, getattr(config, group)) for group in CHOICES}
    return {"choices": groups, **asdict(config)}


def empty_config(choices: Mapping[str, str]) -> Config:
    """The defaults of these choices.

    Raises:
        ConfigError: a group or choice that does not exist.
    """
    for group, name in choices.items():
        if group not in CHOICES:
            raise ConfigError(f"there is no group {group!r}.{near(group, CHOICES)}")
        if name not in CHOICES[group]:
            raise ConfigError(f"{group}={name}: unknown {group}.{near(name, CHOICES[group])}")
    return Config(**{group: copy.deepcopy(CHOICES[group][name]) for group, name in choices.items()})
