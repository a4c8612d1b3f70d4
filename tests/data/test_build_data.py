from __future__ import annotations

from pathlib import Path

import pytest

from qat.data import SOURCES, build_data, build_source
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
