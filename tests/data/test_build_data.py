from __future__ import annotations

import inspect
from dataclasses import asdict
from pathlib import Path

import pytest

from qat.config import DataConfig
from qat.data import SOURCES, STRIDE, DataModule, DetectionData, ImageData, TextData, build_data, build_source
from qat.errors import ConfigError
from tests.data.samples import make_record


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
    data = build_data(build_source("digits"), preprocessing=make_record(), limit_test=20)
    assert data.n_test == 20
    assert len(data.labels) == 10


def test_build_data_refuses_options_of_another_kind_together() -> None:
    source = build_source("grammar", train=20, test=10)
    with pytest.raises(ConfigError) as refused:
        build_data(source, preprocessing={}, augment="flip", verify=False, batch_size=8)
    lines = str(refused.value).splitlines()
    assert [line.split(".")[1].split()[0] for line in lines] == ["augment", "verify"]
    assert all("has no meaning for sentences" in line and "batch_size" in line for line in lines)


@pytest.mark.parametrize("module", [ImageData, DetectionData, TextData])
def test_defaults_of_the_library_are_those_of_the_commands(module: type[DataModule]) -> None:
    commands = {**asdict(DataConfig()), "augment_options": None}  # of which {} says the same
    own = {name: it.default for name, it in inspect.signature(module).parameters.items() if it.default is not it.empty}
    shared = own.keys() & commands.keys()
    assert len(shared) > 7
    assert {name: own[name] for name in shared} == {name: commands[name] for name in shared}
    assert commands["stride"] == STRIDE
