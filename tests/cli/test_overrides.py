"""Hydra's sweep syntax: what a grid runs and what a search draws are the values that Hydra itself would take."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from qat.cli.overrides import grid, read, split
from qat.cli.recipes import folder, recipes, register
from qat.sweep.search import written
from qat.sweep.space import Choice, Dimension, Interval, distributions


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    """What finds the recipes that a glob means."""
    register()
    with initialize_config_dir(str(folder("conf")), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def parsed(override: str) -> Any:
    """The value that Hydra reads."""
    return OverridesParser.create().parse_override(override).value()


def dimension(argument: str, loader: ConfigLoader | None = None) -> Dimension:
    fixed, (found,) = split(read([argument], loader))
    assert fixed == []
    return found


def drawn(found: Dimension, count: int = 100) -> list[Any]:
    """Values as a study draws them."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [study.ask(distributions([found])).params[found.key] for _ in range(count)]


#: Discrete sweeps, and the values that they name.
DISCRETE: dict[str, Sequence[Any]] = {
    "qat.lr=1e-5,1e-4": [1e-5, 1e-4],
    "qat.lr=choice(1e-5,1e-4,3e-4)": [1e-5, 1e-4, 3e-4],
    "qat.optimizer=adamw,sgd": ["adamw", "sgd"],
    "qat.gradient_clip_val=null,1": [None, 1],
    "gate.enforce=true,false": [True, False],
    "engines=[fbgemm],[fbgemm,x86]": [["fbgemm"], ["fbgemm", "x86"]],
    "data.options={a:1},{a:2,b:x}": [{"a": 1}, {"a": 2, "b": "x"}],
    "data.root='a b, c',\"it's\",'[x]'": ["a b, c", "it's", "[x]"],
    "output=${model.name},run-${hydra:job.num}": ["${model.name}", "run-${hydra:job.num}"],
    "qat.max_epochs=range(1,5)": range(1, 5),
    "qat.max_epochs=range(4)": range(4),
    "qat.max_epochs=range(2,11,3)": range(2, 11, 3),
    "qat.max_epochs=range(2,12,3)": range(2, 12, 3),
    "qat.max_epochs=range(9,1,-2)": range(9, 1, -2),
    "qat.max_epochs=range(3,4)": range(3, 4),
    "qat.lr=range(0.1,0.5,0.1)": [0.1, 0.2, 0.3, 0.4],
    "qat.lr=range(0,1,0.3)": [0.0, 0.3, 0.6, 0.9],
    "qat.lr=range(1,0,-0.25)": [1.0, 0.75, 0.5, 0.25],
    "qat.max_epochs=sort(3,1,2)": [1, 2, 3],
    "qat.max_epochs=int(range(1.0,4.0))": [1, 2, 3],
    "+new=1,2": [1, 2],
    "++model.options.depth=1,2": [1, 2],
}


@pytest.mark.parametrize(("argument", "values"), DISCRETE.items(), ids=DISCRETE)
def test_grid_runs_the_values_that_a_sweep_names_in_order(argument: str, values: Sequence[Any]) -> None:
    jobs = grid(read([argument]))
    assert all(job.partition("=")[0] == argument.partition("=")[0] for (job,) in jobs)
    found = [parsed(job) for (job,) in jobs]
    assert len(found) == len(values)
    assert all(_same(*pair) for pair in zip(found, values, strict=True))


@pytest.mark.parametrize(("argument", "values"), DISCRETE.items(), ids=DISCRETE)
def test_search_draws_every_value_that_a_sweep_names_and_no_other(argument: str, values: Sequence[Any]) -> None:
    found = dimension(argument)
    written_values = [parsed(written({found.key: value})[0]) for value in drawn(found)]
    assert all(any(_same(value, named) for named in values) for value in written_values)
    assert all(any(_same(value, named) for value in written_values) for named in values)


@pytest.mark.parametrize(("argument", "values"), DISCRETE.items(), ids=DISCRETE)
def test_wandb_is_told_the_values_that_a_sweep_names(argument: str, values: Sequence[Any]) -> None:
    parameter = dimension(argument).parameter()
    if "min" in parameter:
        assert parameter["distribution"] == "int_uniform"
        told: list[Any] = list(range(parameter["min"], parameter["max"] + 1))
    else:
        told = [parsed(f"key={value}") for value in parameter["values"]]
    assert len(told) == len(values)
    assert all(any(_same(value, named) for value in told) for named in values)


#: Intervals: lowest and highest value, whether logarithms are spread evenly, whether numbers are whole.
CONTINUOUS: dict[str, tuple[float, float, bool, bool]] = {
    "qat.lr=interval(0,1)": (0.0, 1.0, False, False),
    "qat.lr=interval(-1.5,2.5)": (-1.5, 2.5, False, False),
    "qat.lr=tag(log,interval(1e-6,1e-3))": (1e-6, 1e-3, True, False),
    "qat.lr=tag(float,interval(1,2))": (1.0, 2.0, False, False),
    "qat.max_epochs=tag(int,interval(1,5))": (1, 5, False, True),
    "qat.max_epochs=int(interval(1,5))": (1, 5, False, True),
    "qat.max_epochs=tag(int,log,interval(1,64))": (1, 64, True, True),
    "+new=interval(0,1)": (0.0, 1.0, False, False),
}


@pytest.mark.parametrize(("argument", "expected"), CONTINUOUS.items(), ids=CONTINUOUS)
def test_search_draws_within_an_interval_and_writes_exactly_what_it_drew(
    argument: str, expected: tuple[float, float, bool, bool]
) -> None:
    low, high, log, integer = expected
    found = dimension(argument)
    assert found == Interval(key=argument.partition("=")[0], low=low, high=high, log=log, integer=integer)
    values = drawn(found)
    assert all(low <= value <= high and isinstance(value, int) == integer for value in values)
    assert [parsed(text) for value in values for text in written({found.key: value})] == values
    middle = (low * high) ** 0.5 if log else (low + high) / 2
    below, above = sum(value < middle for value in values), sum(value > middle for value in values)
    assert abs(below - above) < len(values) / 4, "drawn evenly, as many lie below the middle as above it"


@pytest.mark.parametrize(("argument", "expected"), CONTINUOUS.items(), ids=CONTINUOUS)
def test_wandb_is_told_the_bounds_of_an_interval(argument: str, expected: tuple[float, float, bool, bool]) -> None:
    low, high, log, integer = expected
    parameter = dimension(argument).parameter()
    assert (parameter["min"], parameter["max"]) == (low, high)
    assert ("log" in parameter["distribution"]) == log
    assert (parameter["distribution"] in ("int_uniform", "q_log_uniform_values")) == integer
    assert all(isinstance(parameter[bound], int) == integer for bound in ("min", "max"))
    assert parameter.get("q", 1) == 1
    assert isinstance(parameter.get("q", 1), int), "W&B draws whole numbers of a whole q alone"


@pytest.mark.parametrize(
    ("glob", "pattern"),
    [("*", ".*"), ("*_minilm", ".*_minilm"), ("[*],exclude=*minilm", ".*(?<!minilm)"), ("[t*,d*]", "[td].*")],
)
def test_glob_over_recipes_is_a_choice_of_those_that_match(glob: str, pattern: str, loader: ConfigLoader) -> None:
    wanted = {name for name in recipes() if re.fullmatch(pattern, name)}
    assert wanted
    argument = f"recipe=glob({glob})"
    found = dimension(argument, loader)
    assert isinstance(found, Choice)
    assert set(found.values) == wanted
    assert {job for (job,) in grid(read([argument], loader))} == {f"recipe={name}" for name in wanted}


def test_grid_is_the_product_of_all_values_and_keeps_overrides_as_they_are_written(loader: ConfigLoader) -> None:
    arguments = [
        "recipe=digits_resnet,tiny_text",
        "+a=1",
        "++b.c=x,'y z'",
        "~fp32",
        "qat.max_epochs=range(3)",
        "seed=7",
        "d@e=f",
    ]
    values = [
        ["recipe=digits_resnet", "recipe=tiny_text"],
        ["+a=1"],
        ["++b.c=x", "++b.c='y z'"],
        ["~fp32"],
        ["qat.max_epochs=0", "qat.max_epochs=1", "qat.max_epochs=2"],
        ["seed=7"],
        ["d@e=f"],
    ]
    assert grid(read(arguments, loader)) == [list(job) for job in itertools.product(*values)]


def test_grid_of_no_sweep_is_one_job() -> None:
    assert grid(read(["seed=1", "~fp32"])) == [["seed=1", "~fp32"]]


def test_key_that_is_given_twice_counts_as_given_last() -> None:
    assert grid(read(["seed=1,2", "qat.lr=1", "seed=3"])) == [["seed=3", "qat.lr=1"]]


def test_split_tells_what_is_fixed_from_what_is_searched() -> None:
    fixed, space = split(read(["a=1", "b=1,2", "~c", "+d=x", "e=interval(0,1)", "engines=[fbgemm,x86]"]))
    assert fixed == ["a=1", "~c", "+d=x", "engines=[fbgemm,x86]"]
    assert [found.key for found in space] == ["b", "e"]


def test_shuffled_sweep_is_the_same_space_as_the_sorted_one() -> None:
    """Else a search could not go on: its space would be another one in every session."""
    for sweep in ("1,2,3,4,5,6,7,8", "range(1,9)"):
        assert dimension(f"a=shuffle({sweep})") == dimension(f"a={sweep}")


def test_shuffled_grid_runs_every_value() -> None:
    assert sorted(grid(read(["a=shuffle(range(1,9))"]))) == [[f"a={number}"] for number in range(1, 9)]


def _same(a: Any, b: Any) -> bool:
    """Equal and of one type, floats up to their last digits."""
    if isinstance(a, float) and isinstance(b, float):
        return a == pytest.approx(b, rel=1e-12, abs=1e-12)
    return type(a) is type(b) and bool(a == b)
