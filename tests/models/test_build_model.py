from __future__ import annotations

import pytest

from qat.errors import ConfigError
from qat.models import MODELS, build_model


def test_build_model_names_the_sources_near_an_unknown_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown model source 'tim'.*Did you mean 'timm'"):
        build_model("tim")


def test_build_model_calls_the_builder_of_the_source() -> None:
    assert MODELS
    built = build_model("timm", name="test_resnet", num_classes=3, image_size=32)
    assert built.name == "test_resnet"
    assert built.module(*built.example_inputs).shape == (2, 3)
