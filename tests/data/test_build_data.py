from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qat.config import CHOICES, MISSING
from qat.config.data import BoxesConfig, ImagesConfig, TextsConfig
from qat.data import SOURCES, STRIDE, Batching, DetectionData, ImageData, Selection, TextData, build_data, build_source
from qat.deploy.preprocess import TextPreprocess
from qat.errors import ConfigError
from tests.data.samples import make_preprocess


def test_build_source_names_the_sources_near_an_unknown_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown data source 'digit'.*Did you mean 'digits'.*folder, grammar, huggingface"):
        build_source("digit")


def test_build_source_names_the_options_near_an_unknown_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'folder' has no option 'test_splt'.*Did you mean 'test_split'"):
        build_source("folder", root=tmp_path, test_splt="val")


def test_build_source_names_the_option_that_is_needed() -> None:
    with pytest.raises(ConfigError, match="'folder' needs the option root"):
        build_source("folder")


def test_build_data_makes_batches_of_a_source() -> None:
    assert SOURCES
    data = build_data(build_source("digits"), preprocessing=make_preprocess(), limit_test=20)
    assert data.n_test == 20
    assert len(data.labels) == 10


def test_build_data_refuses_options_of_another_kind_together() -> None:
    source, texts = build_source("grammar", train=20, test=10), TextPreprocess(inputs=("input_ids",), max_length=8)
    with pytest.raises(ConfigError) as refused:
        build_data(source, preprocessing=texts, augment="flip", verify=False, batch_size=8)
    lines = str(refused.value).splitlines()
    assert [line.split(".")[1].split()[0] for line in lines] == ["augment", "verify"]
    assert all("has no meaning for sentences" in line and "batch_size" in line for line in lines)


def test_build_data_refuses_what_boxes_would_not_follow() -> None:
    with pytest.raises(ConfigError, match=r"data\.augment_options has no meaning for images with boxes.*batch_size"):
        build_data(build_source("shapes"), preprocessing=make_preprocess(32), augment_options={"scale": (0.5, 1)})


def test_build_data_of_texts_asks_for_the_tokenizer() -> None:
    texts = TextPreprocess(inputs=("input_ids",), max_length=8)
    source = build_source("grammar", train=20, test=10)
    with pytest.raises(ConfigError, match="holds sentences, which need the tokenizer of the model"):
        build_data(source, preprocessing=texts)


def test_build_data_refuses_preprocessing_of_another_kind() -> None:
    with pytest.raises(ConfigError, match="holds sentences, and the model takes images"):
        build_data(build_source("grammar", train=20, test=10), preprocessing=make_preprocess())


MODULES = {ImagesConfig: ImageData, BoxesConfig: DetectionData, TextsConfig: TextData}


@pytest.mark.parametrize("name", SOURCES)
def test_keys_of_the_commands_are_those_of_the_library_with_the_same_defaults(name: str) -> None:
    config = CHOICES["data"][name]
    kind = type(config).__mro__[1]
    batching = _defaults(Batching) | _defaults(Selection) | _defaults(MODULES[kind])
    if kind is ImagesConfig:
        batching["augment_options"] = {}
    if kind is TextsConfig:
        batching |= {"truncation": "truncate", "stride": STRIDE}
    left = ("seed", "split_seed")  # not of the group `data`
    assert {key: value for key, value in batching.items() if key not in left} == config.batching()
    assert _defaults(SOURCES[name]) == config.source()


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Parameters with their defaults, in the words of a configuration."""
    known = inspect.signature(function).parameters.items()
    given = ("source", "preprocessing", "encoder", "batching", "selection")
    return {name: MISSING if it.default is it.empty else it.default for name, it in known if name not in given}
