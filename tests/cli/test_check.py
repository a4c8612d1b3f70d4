"""What a command line is made of before Hydra sees it, and configurations without a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from qat.cli.check import completed, compose_config
from qat.config import with_rates
from qat.config.data import CocoConfig, DigitsConfig
from qat.config.models import TimmDetectorConfig
from qat.errors import ConfigError
from tests.runs import tiny_config, tiny_overrides


@pytest.mark.parametrize(
    ("arguments", "added"),
    [
        (["data=coco"], ["model=timm_detector"]),
        (["data=coco2017"], ["model=timm_detector"]),
        (["data=text"], ["model=hf_text"]),
        (["data=sst2_files"], ["model=hf_text"]),
        (["data=folder"], []),
        (["data=cifar10"], []),
        (["data=coco", "model=hf_detector"], []),
        (["recipe=tiny_shapes", "data=coco"], []),
        (["data=coco,shapes", "-m"], []),
        (["--help"], ["data=folder"]),
        (["--help", "recipe=digits_resnet"], []),
    ],
    ids=str,
)
def test_model_goes_with_the_data_where_none_is_named(arguments: list[str], added: list[str]) -> None:
    assert completed(arguments) == [*arguments, *added]


def test_only_keys_that_the_schema_leaves_open_may_be_added() -> None:
    given = ["model.options.a=1", "model.name=x", "data.augment_options.b.c=2", "+model.options.d=1", "~model.options.a"]
    assert completed(given) == ["++model.options.a=1", "model.name=x", "++data.augment_options.b.c=2", *given[3:]]


def test_configuration_without_a_command_is_that_of_the_command(tmp_path: Path) -> None:
    """As a rank makes it that torchrun has started by hand."""
    found = compose_config(tiny_overrides(tmp_path))
    assert found.recipe == "digits"
    assert with_rates(found) == with_rates(tiny_config(tmp_path, recipe="digits"))
    boxes = compose_config(["recipe=coco_fcos_resnet50", "data.root=x", "output=y", "model.options.drop_rate=0.1"])
    assert isinstance(boxes.data, CocoConfig)
    assert isinstance(boxes.model, TimmDetectorConfig)
    assert (boxes.recipe, boxes.model.options) == ("coco_fcos_resnet50", {"drop_rate": 0.1})
    assert isinstance(found.data, DigitsConfig)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data=digits"], "output is missing"),
        (["data=digits", "output=x", "fp32.epochs=1"], r"give fp32\.max_epochs"),
        (["data=digits", "output=x", "qat.decay=cos"], r"qat\.decay=cos: unknown decay"),
    ],
    ids=str,
)
def test_configuration_without_a_command_is_checked_as_well(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compose_config(overrides)
