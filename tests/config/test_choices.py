"""What the configuration offers is what the library has, word for word."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest
from pytorch_lightning import Trainer

from qat.config import CHOICES, Config, chosen, empty_config, model_for, task_for, to_record
from qat.config.data import BoxesConfig, ImagesConfig, TextsConfig
from qat.config.models import TimmDetectorConfig
from qat.config.run import QuantizationConfig
from qat.config.training import StageConfig, TrainerConfig
from qat.data import SOURCES, build_source
from qat.data.detection.augment import AUGMENTS as BOX_AUGMENTS
from qat.data.images.augment import AUGMENTS
from qat.errors import ConfigError
from qat.models import MODELS
from qat.models.dense import HEADS
from qat.quantization.calibrate import calibrate
from qat.quantization.observer import OBSERVERS
from qat.quantization.prepare import prepare
from qat.quantization.schedule import QATSchedule
from qat.quantization.targets import TARGETS
from qat.tasks import TASKS, task_reading
from qat.training.fit import OWN, FitOptions
from qat.training.loggers.build import LOGGERS
from qat.training.optimizer import OPTIMIZERS, OptimizerFactory


def _allowed(config: type, name: str) -> set[str]:
    (found,) = (known.metadata["allowed"] for known in fields(config) if known.name == name)
    return set(found)


@pytest.mark.parametrize(
    ("group", "known"),
    [
        ("task", {"auto", *TASKS}),
        ("model", {*MODELS}),
        ("data", {*SOURCES}),
        ("optimizer", {*OPTIMIZERS, "timm"}),
        ("quantization", {*TARGETS}),
        ("logger", {*LOGGERS}),
    ],
)
def test_choices_of_a_group_are_what_the_library_has(group: str, known: set[str]) -> None:
    assert set(CHOICES[group]) == known


@pytest.mark.parametrize(
    ("config", "key", "known"),
    [
        (ImagesConfig, "augment", {*AUGMENTS, "timm"}),
        (BoxesConfig, "augment", {"none", *BOX_AUGMENTS}),
        (TimmDetectorConfig, "head", {*HEADS}),
        (QuantizationConfig, "observer", {*OBSERVERS}),
    ],
)
def test_words_of_a_key_are_what_the_library_has(config: type, key: str, known: set[str]) -> None:
    assert _allowed(config, key) == known


@pytest.mark.parametrize("kind", MODELS)
def test_keys_of_a_model_are_parameters_of_its_builder(kind: str) -> None:
    parameters = inspect.signature(MODELS[kind].load()).parameters
    keys = {known.name for known in fields(CHOICES["model"][kind])}
    given = {"task", "data", "num_classes", "backbone"}
    if "backbone" in parameters:  # a detector's builder hands the rest on to that of its backbone
        parameters = {**parameters, **inspect.signature(MODELS["timm"].load()).parameters}  # type: ignore[assignment]
    assert keys == parameters.keys() - given


def test_keys_of_the_trainer_are_those_of_lightning_and_may_be_given() -> None:
    lightning = inspect.signature(Trainer).parameters
    for known in fields(TrainerConfig):
        assert known.name in lightning.keys() - OWN, known.name
    FitOptions(trainer=vars(TrainerConfig()))
    same = {"accumulate_grad_batches", "check_val_every_n_epoch", "limit_train_batches", "max_time"}
    assert {name: getattr(TrainerConfig(), name) for name in same} == {name: lightning[name].default for name in same}


def test_stage_defaults_are_those_of_the_library() -> None:
    options, stage = FitOptions(), StageConfig()
    assert (options.max_epochs, options.max_steps) == (stage.max_epochs, stage.max_steps)
    assert options.gradient_clip_val == stage.gradient_clip_val


def test_quantization_defaults_are_those_of_the_library() -> None:
    """Whoever copies the README's lines trains what a recipe trains."""
    config, schedule = QuantizationConfig(), QATSchedule()
    own = {name: it.default for name, it in inspect.signature(prepare).parameters.items()}
    assert (own["target"], own["observer"]) == (config.target, config.observer)
    assert list(own["keep_float"]) == config.keep_float
    assert inspect.signature(calibrate).parameters["bias_correction"].default == config.bias_correction
    assert (schedule.quantize_from, schedule.freeze_ranges_at) == (config.quantize_from, config.freeze_ranges_at)
    assert OptimizerFactory().warmup == StageConfig().warmup
    assert OptimizerFactory().decay == StageConfig().decay


def test_data_alone_decide_task_and_model() -> None:
    for name in ("digits", "shapes"):
        config = CHOICES["data"][name]
        task = task_for(type(config), vars(config))
        assert task == task_reading(build_source(name).kind)
        assert task in MODELS[model_for(type(config))].tasks
    for kind in ("sentences", "tags", "questions"):
        task = task_for(type(CHOICES["data"]["grammar"]), {"kind": kind})
        assert task == task_reading(build_source("grammar", kind=kind, train=20, test=10).kind)
    assert task_for(type(CHOICES["data"]["text"]), {}) is None, "files of three kinds"
    assert model_for(TextsConfig) == "hf_text"


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in CHOICES for name in CHOICES[group]])
def test_record_of_a_configuration_names_its_choices(group: str, name: str) -> None:
    config = empty_config({group: name})
    record: dict[str, Any] = to_record(config)
    assert CHOICES[group][record["choices"][group]].__class__ is CHOICES[group][name].__class__
    assert chosen(group, getattr(config, group)) == record["choices"][group]
    assert record[group] == to_record(empty_config({group: name}))[group]


def test_unknown_group_and_choice_are_answered_with_near_names() -> None:
    with pytest.raises(ConfigError, match=r"no group 'modl'.*Did you mean 'model'"):
        empty_config({"modl": "timm"})
    with pytest.raises(ConfigError, match=r"data=digit: unknown data.*Did you mean 'digits'"):
        empty_config({"data": "digit"})
    assert isinstance(empty_config({}), Config)
