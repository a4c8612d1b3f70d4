from __future__ import annotations

import pytest

from qat.data import build_source
from qat.errors import ConfigError
from qat.models import MODELS, build_model


def test_build_model_names_the_sources_near_an_unknown_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown kind of model 'tim'.*Did you mean 'timm'"):
        build_model("tim", task="classification", data=build_source("digits"))


def test_build_model_calls_the_builder_of_the_source() -> None:
    assert MODELS
    built = build_model("timm", task="classification", data=build_source("digits"), name="test_resnet", image_size=32)
    assert built.name == "test_resnet"
    assert built.module(*built.example_inputs).shape == (2, 10)


def test_timm_model_for_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the task is text_classification; set model=hf_text"):
        build_model("timm", task="text_classification", data=build_source("grammar"), name="test_resnet")
