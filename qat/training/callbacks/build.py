"""Callbacks from plain values: the group `callbacks` of a configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pkgutil import resolve_name

from pytorch_lightning import Callback

from qat.environment import look_into_current_folder_
from qat.errors import ConfigError, near


def build_callbacks(config: Mapping[str, object]) -> list[Callback]:
    """Make every callback that a configuration names.

    Args:
        config: by any name a mapping with the class as `_target_` and its arguments. It is the user's own command or file that
            names the class; nothing that is loaded does.

    Raises:
        ConfigError: no class of that name, one that is no callback, or arguments that it does not take.
    """
    return [_build(name, entry) for name, entry in config.items() if entry is not None]


def _build(name: str, entry: object) -> Callback:
    if not isinstance(entry, Mapping) or "_target_" not in entry:
        raise ConfigError(
            f"callbacks.{name} names no class; choose one that there is (callbacks={name}), or give +callbacks.{name}._target_"
        )
    arguments = dict(entry)
    target = arguments.pop("_target_")
    look_into_current_folder_()
    try:
        kind = resolve_name(str(target))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"callbacks.{name}._target_={target} cannot be imported: {error}") from error
    if not (inspect.isclass(kind) and issubclass(kind, Callback)):
        raise ConfigError(f"callbacks.{name}._target_={target} is no Lightning callback")
    known = inspect.signature(kind).parameters
    if unknown := [key for key in arguments if key not in known and "kwargs" not in known]:
        raise ConfigError("\n".join(f"callbacks.{name} has no argument {key!r}.{near(key, known)}" for key in unknown))
    try:
        made: Callback = kind(**arguments)
    except Exception as error:  # every class refuses arguments in its own way
        raise ConfigError(f"callbacks.{name} cannot be made: {type(error).__name__}: {error}") from error
    return made
