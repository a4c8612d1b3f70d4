"""Sweeps that cannot be are refused in words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

from qat.cli.overrides import grid, read, split
from qat.cli.recipes import folder, register
from qat.errors import ConfigError


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    """What finds the recipes that a glob means."""
    register()
    with initialize_config_dir(str(folder("conf")), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("qat.lr=tag(logarithmic,interval(1,2))", r"qat\.lr: unknown tag logarithmic\. Allowed: log, int, float"),
        ("qat.lr=tag(log,interval(0,1))", r"qat\.lr: a logarithmic interval starts above 0, got 0"),
        ("qat.lr=tag(log,interval(-1,1))", r"starts above 0, got -1"),
        ("qat.lr=interval(2,1)", r"qat\.lr: an interval goes from a smaller to a larger number, got 2\.0 to 1\.0"),
        ("qat.lr=interval(1,1)", r"smaller to a larger"),
        ("qat.lr=interval(0,inf)", r"smaller to a larger"),
        (
            "qat.max_epochs=tag(int,interval(0.5,3.5))",
            r"qat\.max_epochs: whole numbers go from one to another, got 0\.5 to 3\.5",
        ),
        ("qat.lr=tag(log,range(1,8))", r"tag\(log, \.\.\.\) says how to draw from an interval"),
        ("qat.lr=tag(log,choice(1,8))", r"tag\(log, \.\.\.\) says how to draw from an interval"),
        ("qat.max_epochs=range(3,3)", r"range\(3,3\) names no value of qat\.max_epochs"),
        ("qat.max_epochs=range(1,5,0)", r"range\(1,5,0\): .*zero"),
    ],
)
def test_space_that_cannot_be_is_refused_with_advice(argument: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        split(read([argument]))


@pytest.mark.parametrize("argument", ["qat.lr=interval(0,1)", "qat.lr=tag(log,interval(1e-6,1e-3))", "+a=int(interval(1,3))"])
def test_interval_in_a_grid_is_refused_with_both_ways_out(argument: str) -> None:
    with pytest.raises(ConfigError, match=r"spans an interval.*choice\(a,b\).*hydra/sweeper=optuna"):
        grid(read(["seed=1,2", argument]))


@pytest.mark.parametrize("argument", ["a=range(3,3)", "a=range(1,5,0)"])
def test_grid_of_no_value_is_refused(argument: str) -> None:
    with pytest.raises(ConfigError, match=r"range"):
        grid(read(["seed=1,2", argument]))


def test_glob_that_matches_nothing_is_refused(loader: ConfigLoader) -> None:
    for use in (grid, split):
        with pytest.raises(ConfigError, match=r"glob\(nope\*\) names no value of recipe"):
            use(read(["recipe=glob(nope*)"], loader))


@pytest.mark.parametrize("argument", ["a=choice()", "a=[1", "a=interval(1,x)"])
def test_what_hydra_cannot_parse_it_refuses_itself(argument: str) -> None:
    with pytest.raises(HydraException):
        read([argument])
