"""Everything that is wrong with a command line, said at once and before anything heavy is imported.

Hydra stops at the first mistake, in words of its own. Here the groups are composed first and then each override alone, so that
every mistake is found, and a key of another choice is answered with where it belongs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError

from qat.cli.names import key_of, refuse_earlier
from qat.cli.recipes import folder, register
from qat.config import CHOICES, MISSING, Config, mistakes, model_for
from qat.errors import ConfigError, near

#: Keys whose content the schema leaves open: `KEY.NAME=VALUE` adds a name.
OPEN = (
    "model.options",
    "model.head_options",
    "model.postprocessing",
    "data.augment_options",
    "optimizer.options",
)


#: What a file writes for a key that the user has to give.
REQUIRED = "${required:}"


def opened(argument: str) -> str:
    """An override of a key that the schema leaves open, as one that may add it."""
    inside = any(argument.startswith(f"{key}.") for key in OPEN)
    return f"++{argument}" if inside and "=" in argument else argument


def check(overrides: Sequence[str]) -> None:
    """Compose the configuration that these overrides make, and look at its values.

    Raises:
        ConfigError: with all that is wrong, one line each.
    """
    register()
    with hydra.initialize_config_dir(config_dir=str(folder("conf")), version_base="1.3"):
        config = _composed(overrides)
        found = value_mistakes(config) if isinstance(config, DictConfig) else _each_mistake(overrides) or [_words(config)]
    if found:
        raise ConfigError("\n".join(found))


def compose_config(overrides: Sequence[str]) -> Config:
    """The configuration that these overrides make, without a command of Hydra's around it.

    Raises:
        ConfigError: with all that is wrong, one line each.
    """
    overrides = completed(overrides)
    refuse_earlier(overrides)
    check(overrides)
    given = {key_of(override): override.partition("=")[2] for override in overrides}
    if "output" not in given:
        raise ConfigError("output is missing; give output=FOLDER, the same for every rank")
    with hydra.initialize_config_dir(config_dir=str(folder("conf")), version_base="1.3"):
        config = hydra.compose("config", overrides=list(overrides))
    config.recipe = given.get("recipe") or given.get("data")
    OmegaConf.resolve(config)
    typed = OmegaConf.to_object(config)
    assert isinstance(typed, Config)
    return typed


def value_mistakes(config: DictConfig) -> list[str]:
    """Every key that is missing and every value that cannot be."""
    found = []
    for key in Config.__dataclass_fields__:
        node = config._get_node(key)
        if not isinstance(node, DictConfig):
            continue
        missing = missing_keys(node)
        found += [f"{key}.{name} is missing; give {key}.{name}=VALUE" for name in missing]
        if missing:
            continue
        with suppress(InterpolationToMissingValueError):  # what it refers to is named as missing itself
            if is_dataclass(typed := OmegaConf.to_object(node)):
                found += mistakes(typed, f"{key}.")
    return found


def missing_keys(node: DictConfig) -> list[str]:
    """Keys that have to be given: `???` of a dataclass, `${required:}` of a file (where a merge would drop the other)."""
    raw = {str(key): node._get_node(key) for key in node}
    values = {key: child._value() for key, child in raw.items() if isinstance(child, Node)}
    return sorted(key for key, value in values.items() if isinstance(value, str) and value in (MISSING, REQUIRED))


def _each_mistake(overrides: Sequence[str]) -> list[str]:
    """What is wrong with the choice of groups, or else with each of the other overrides by itself."""
    loader = GlobalHydra.instance().config_loader()
    known = {*loader.list_groups(""), "hydra"}
    chosen = [o for o in overrides if key_of(o).partition("@")[0].split("/")[0] in known and "." not in key_of(o)]
    found = [words for o in chosen if (words := _choice_mistake(o, loader))]
    if found:
        return found
    base = _composed(chosen)
    if isinstance(base, HydraException):
        if not {"data", "recipe"} & {key_of(o) for o in chosen}:
            sources = ", ".join(sorted(loader.get_group_options("data")))
            return [f"name the data: data=NAME, or a recipe that has some: recipe=NAME (see --help). Data: {sources}"]
        return [_words(base)]
    bad = dict(_wrong([o for o in overrides if o not in chosen], chosen))
    found += [_explained(override, error, base) for override, error in bad.items()]
    config = _composed([o for o in overrides if o not in bad])
    return found + (value_mistakes(config) if isinstance(config, DictConfig) else [_words(config)])


def _wrong(overrides: Sequence[str], chosen: Sequence[str]) -> Iterator[tuple[str, HydraException]]:
    """The overrides that do not compose, each with its error. Composing costs a fifth of a second, so what composes together is
    not looked at one by one."""
    error = _composed([*chosen, *overrides])
    if not isinstance(error, HydraException):
        return
    if len(overrides) == 1:
        yield overrides[0], error
        return
    middle = len(overrides) // 2
    for half in (overrides[:middle], overrides[middle:]):
        if half:
            yield from _wrong(half, chosen)


def _choice_mistake(override: str, loader: Any) -> str | None:
    """What is wrong with `GROUP=CHOICE`; None when nothing is."""
    group = key_of(override)
    names = loader.get_group_options(group)
    given = override.partition("=")[2].strip("[]\"'")
    wrong = [name for name in given.split(",") if name and name != "null" and name not in names]
    return "\n".join(f"{group}={name}: unknown {group}.{near(name, names)}" for name in wrong) or None


def _composed(overrides: Sequence[str]) -> DictConfig | HydraException:
    try:
        return hydra.compose("config", overrides=list(overrides))
    except HydraException as error:
        return error


def _explained(override: str, error: HydraException, config: DictConfig) -> str:
    """A mistake in the words of this program where the key is not there, else in Hydra's."""
    key = key_of(override)
    parent, name, here = _first_unknown(key, config)
    if here is None:
        return f"{override}: {_words(error)}"
    allowed = [str(known) for known in here]
    group = parent.partition(".")[0]
    owners = [choice for choice, node in CHOICES.get(group, {}).items() if name in OmegaConf.structured(node)]
    if parent in CHOICES and owners:
        choice = next((c for c, node in CHOICES[group].items() if type(node) is OmegaConf.get_type(here)), "this choice")
        return f"{override}: {name} is a key of {group}={' or '.join(owners)}, and {group} is {choice}.{near(name, allowed)}"
    others = [other for other in _places(config, name) if other != key]
    elsewhere = f" Give {' or '.join(others)}." if others else ""
    return f"{override}: there is no key {key!r}.{elsewhere}{near(name, allowed)}"


def _first_unknown(key: str, config: DictConfig) -> tuple[str, str, DictConfig | None]:
    """Where a dotted key leaves what is there: the path so far, the name that is not there, and the node that lacks it."""
    node, parts = config, key.split(".")
    for i, name in enumerate(parts):
        if name not in node:
            return ".".join(parts[:i]), name, node
        child = node._get_node(name)
        if not isinstance(child, DictConfig):
            break
        node = child
    return "", "", None


def _places(config: DictConfig, name: str) -> Iterator[str]:
    for group in map(str, config):
        node = config._get_node(group)
        if isinstance(node, DictConfig) and not node._is_missing() and name in node:
            yield f"{group}.{name}"


_NOISE = ("full_key:", "object_type=", "reference_type=")


def _words(error: BaseException) -> str:
    """The message of an error with what caused it, without the lines that are Python's or OmegaConf's own."""
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines = (line.strip() for line in str(cause).splitlines())
        text = " ".join(line for line in lines if line and not line.startswith(_NOISE))
        if text and not any(text in part for part in parts):
            parts.append(text)
        cause = cause.__cause__
    return " ".join(parts)


def plain_overrides(arguments: Iterable[str]) -> list[str] | None:
    """The overrides among a command's arguments; None where flags ask for something else than a single run."""
    arguments = list(arguments)
    return None if any(argument.startswith("-") for argument in arguments) else arguments


def completed(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, with keys opened, the model that goes with the data where neither a recipe nor a model is
    named, and for `--help` an example of data where none are."""
    found = [opened(argument) for argument in arguments]
    given = {key_of(argument): argument.partition("=")[2] for argument in found}
    if "--help" in found and not given.keys() & {"data", "recipe"}:
        found.append("data=folder")
    if "data" in given and not given.keys() & {"model", "recipe"}:
        source = CHOICES["data"].get(_source_of(given["data"]))
        if source is not None and model_for(type(source)) != "timm":
            found.append(f"model={model_for(type(source))}")
    return found


def _source_of(data: str) -> str:
    """The kind of source that a choice of `data` is, or that its file begins with."""
    file = folder("conf") / "data" / f"{data}.yaml"
    return str(OmegaConf.select(OmegaConf.load(file), "defaults[0]")) if file.is_file() else data
